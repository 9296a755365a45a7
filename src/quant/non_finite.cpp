// SPDX-License-Identifier: Apache-2.0
#include "quant/non_finite.hpp"

#include <moptcore/core/parallel.hpp>

#include <atomic>

#include "kernels/minmax.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::quant {
namespace {

constexpr std::int64_t kGrain = std::int64_t{1} << 18;

bool has_nan(const float* src, std::int64_t n) noexcept { return kernels::has_nan_f32(src, n); }
bool has_nan(const double* src, std::int64_t n) noexcept { return kernels::has_nan_f64(src, n); }

template <class T>
bool any_nan(const AnyView& x) {
  std::atomic<bool> found{false};
  parallel_for(x.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    T scratch[kernels::kScratch];
    const bool plain = x.dtype() == dtype_of<T>() && x.is_contiguous();
    const std::int64_t step = plain ? last - first : kernels::kScratch;
    for (std::int64_t at = first; at < last; at += step) {
      const std::int64_t n = std::min(step, last - at);
      if (has_nan(kernels::block(x, at, n, scratch), n)) {
        found.store(true, std::memory_order_relaxed);
      }
    }
  });
  return found.load();
}

}  // namespace

void check_no_nan(const AnyView& x, std::string_view where) {
  const bool found = x.dtype() == DType::float64 ? any_nan<double>(x) : any_nan<float>(x);
  check<NonFiniteError>(!found, where, "x must hold no NaN (nonfinite=\"error\")", "NaN");
}

}  // namespace moptcore::inline v0::quant
