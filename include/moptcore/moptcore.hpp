// SPDX-License-Identifier: Apache-2.0
// Everything that moptcore::moptcore offers; include a word's own header for less.
#pragma once

#include <moptcore/cluster/cluster.hpp>
#include <moptcore/core/core.hpp>
#include <moptcore/distill/distill.hpp>
#include <moptcore/pack/pack.hpp>
#include <moptcore/prune/prune.hpp>
#include <moptcore/quant/quant.hpp>
