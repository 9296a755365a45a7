// SPDX-License-Identifier: Apache-2.0
// Highway's AVX-512 target lacks VNNI: these functions carry their own.
#include "kernels/integer_vnni.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <utility>

#define MOPTCORE_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

namespace moptcore::inline v0::kernels::vnni {
namespace {

template <int kCount, bool kListed>
MOPTCORE_VNNI void rows(std::int64_t depth, const std::int32_t* left, std::int64_t distance,
                        const std::int32_t* first, const std::int32_t* second,
                        const std::int64_t* offset, bool more, std::int32_t* sums) {
  __m512i sum[kCount][2];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      sum[i][j] =
          more ? _mm512_loadu_si512(sums + i * kCols + j * kCols / 2) : _mm512_setzero_si512();
    }
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const std::int64_t at = kListed ? offset[k] : k * kCols;
    const __m512i low = _mm512_loadu_si512(first + at);
    const __m512i high = _mm512_loadu_si512(second + at);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const __m512i word = _mm512_set1_epi32(left[i * distance + k]);
      sum[i][0] = _mm512_dpwssd_epi32(sum[i][0], word, low);
      sum[i][1] = _mm512_dpwssd_epi32(sum[i][1], word, high);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      _mm512_storeu_si512(sums + i * kCols + j * kCols / 2, sum[i][j]);
    }
  }
}

template <bool kListed, int... kCounts, class... Arguments>
void dispatch(std::integer_sequence<int, kCounts...>, int count, Arguments... arguments) {
  using Function = void (*)(Arguments...);
  static constexpr Function kFunctions[] = {&rows<kCounts + 1, kListed>...};
  kFunctions[count - 1](arguments...);
}

}  // namespace

bool available() noexcept {
  static const bool found =
      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  return found;
}

void tile(int count, std::int64_t depth, const std::int32_t* left, std::int64_t distance,
          const std::int32_t* first, const std::int32_t* second, const std::int64_t* offset,
          bool more, std::int32_t* sums) noexcept {
  constexpr std::make_integer_sequence<int, kRows> kCounts;
  if (offset != nullptr) {
    dispatch<true>(kCounts, count, depth, left, distance, first, second, offset, more, sums);
  } else {
    dispatch<false>(kCounts, count, depth, left, distance, first, second, offset, more, sums);
  }
}

}  // namespace moptcore::inline v0::kernels::vnni

#else

namespace moptcore::inline v0::kernels::vnni {

bool available() noexcept { return false; }

void tile(int, std::int64_t, const std::int32_t*, std::int64_t, const std::int32_t*,
          const std::int32_t*, const std::int64_t*, bool, std::int32_t*) noexcept {}

}  // namespace moptcore::inline v0::kernels::vnni

#endif
