// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moptcore/core/tensor_view.hpp>

#include <string_view>

namespace moptcore::inline v0::quant {

/// Throws NonFiniteError where x holds NaN. Reads all of x.
void check_no_nan(const AnyView& x, std::string_view where);

}  // namespace moptcore::inline v0::quant
