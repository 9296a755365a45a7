// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/runtime/integer.hpp>
#include <moptcore/runtime/quantize.hpp>
#include <moptcore/runtime/session.hpp>
#include <moptcore/runtime/soft_targets.hpp>
