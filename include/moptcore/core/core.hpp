// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/core/check.hpp>
#include <moptcore/core/copy.hpp>
#include <moptcore/core/dtype.hpp>
#include <moptcore/core/grid_type.hpp>
#include <moptcore/core/int4.hpp>
#include <moptcore/core/isa.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/core/shape.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/core/thread_scope.hpp>
#include <moptcore/core/version.hpp>
