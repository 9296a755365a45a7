// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/core/qparams.hpp>
#include <moptcore/quant/compat.hpp>
#include <moptcore/quant/equalize.hpp>
#include <moptcore/quant/fake_quant.hpp>
#include <moptcore/quant/fake_quant_range.hpp>
#include <moptcore/quant/half_quadratic.hpp>
#include <moptcore/quant/histogram.hpp>
#include <moptcore/quant/learned.hpp>
#include <moptcore/quant/levels.hpp>
#include <moptcore/quant/quantize.hpp>
#include <moptcore/quant/range.hpp>
#include <moptcore/quant/reconstruct.hpp>
