// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/copy.hpp>

#include <array>
#include <cstring>

#include <moptcore/core/parallel.hpp>

#include "kernels/strided.hpp"

namespace moptcore::inline v0 {
namespace {

constexpr std::int64_t kGrain = std::int64_t{1} << 18;

}  // namespace

void copy_elements(const AnyView& src, const MutableAnyView& dst) {
  constexpr auto where = "core.copy";
  check<DTypeError>(src.dtype() == dst.dtype(), where, "dst must have the dtype of src",
                    name(dst.dtype()));
  check(src.shape() == dst.shape(), where, "dst must have the shape of src", dst.shape());
  check_no_partial_overlap(src, dst, where, "dst");
  if (src.data() == dst.data() && src.strides() == dst.strides()) return;
  if (is_packed(src.dtype())) {
    std::memcpy(dst.data(), src.data(),
                static_cast<std::size_t>(byte_count(src.dtype(), src.size())));
    return;
  }
  const std::int64_t bytes = bit_width(src.dtype()) / 8;
  parallel_for(src.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
    if (dst.is_contiguous()) {
      kernels::gather(src, first, last - first, static_cast<char*>(dst.data()) + first * bytes);
      return;
    }
    std::array<std::uint64_t, kernels::kScratch> scratch;
    for (std::int64_t at = first; at < last; at += kernels::kScratch) {
      const std::int64_t n = std::min(kernels::kScratch, last - at);
      kernels::gather(src, at, n, scratch.data());
      kernels::scatter(scratch.data(), at, n, dst);
    }
  });
}

}  // namespace moptcore::inline v0
