// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/distill/feature.hpp>
#include <moptcore/distill/soft_targets.hpp>
