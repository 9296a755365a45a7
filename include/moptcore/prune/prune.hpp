// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/prune/mask.hpp>
#include <moptcore/prune/pattern.hpp>
#include <moptcore/prune/regrow.hpp>
#include <moptcore/prune/schedule.hpp>
#include <moptcore/prune/score.hpp>
#include <moptcore/prune/sparsegpt.hpp>
#include <moptcore/prune/statistics.hpp>
