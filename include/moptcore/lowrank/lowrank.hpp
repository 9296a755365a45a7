// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/lowrank/convolution.hpp>
#include <moptcore/lowrank/rank.hpp>
#include <moptcore/lowrank/svd.hpp>
