// SPDX-License-Identifier: Apache-2.0
#include "kernels/stream_copy.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/stream_copy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace moptcore::inline v0::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void StreamCopy(const std::uint8_t* src, std::int64_t bytes, std::uint8_t* dst) {
  const hn::ScalableTag<std::uint8_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; i + lanes <= bytes; i += lanes) {
    hn::Stream(hn::LoadU(d, src + i), d, dst + i);
  }
}

}  // namespace moptcore::inline v0::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moptcore::inline v0::kernels {

HWY_EXPORT(StreamCopy);

void stream_copy(const void* src, std::int64_t bytes, void* dst) noexcept {
  constexpr std::int64_t kLine = 64;
  const auto* from = static_cast<const std::uint8_t*>(src);
  auto* to = static_cast<std::uint8_t*>(dst);
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(to) % kLine);
  const std::int64_t head = std::min(past == 0 ? 0 : kLine - past, bytes);
  const std::int64_t body = (bytes - head) / kLine * kLine;
  std::memcpy(to, from, static_cast<std::size_t>(head));
  HWY_DYNAMIC_DISPATCH(StreamCopy)(from + head, body, to + head);
  std::memcpy(to + head + body, from + head + body, static_cast<std::size_t>(bytes - head - body));
}

void stream_fence() noexcept { hwy::FlushStream(); }

}  // namespace moptcore::inline v0::kernels
#endif  // HWY_ONCE
