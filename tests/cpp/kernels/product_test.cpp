// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/core/random.hpp>

#include <bit>
#include <cstdint>
#include <vector>

#include "cpp/kernels/every_isa.hpp"
#include "kernels/integer_product.hpp"
#include "kernels/product.hpp"

using namespace moptcore;
using kernels::Matrix;
using tests::with_every_isa;

namespace {

struct Extents {
  std::int64_t m, n, depth;
};

constexpr Extents kExtents[] = {{1, 1, 1},    {1, 7, 3},    {1, 64, 256}, {1, 65, 300},
                                {2, 130, 17}, {3, 16, 2},   {4, 16, 16},  {5, 33, 31},
                                {8, 64, 512}, {9, 80, 385}, {13, 15, 770}};

}  // namespace

TEST_CASE("A product of 16-bit integers is the sum of its terms modulo 2^32", "[kernels]") {
  const Philox philox(5);
  with_every_isa([&] {
    for (const auto& [m, n, depth] : kExtents) {
      for (const bool transposed : {false, true}) {
        CAPTURE(m, n, depth, transposed);
        std::vector<std::int16_t> a(static_cast<std::size_t>(m * depth));
        std::vector<std::int16_t> b(static_cast<std::size_t>(n * depth));
        // Large enough for sums beyond 2^32.
        for (std::size_t i = 0; i < a.size(); ++i) {
          a[i] = static_cast<std::int16_t>(philox.word(i) % 65535 - 32767);
        }
        for (std::size_t i = 0; i < b.size(); ++i) {
          b[i] = static_cast<std::int16_t>(philox.word(i + 99999) % 65535 - 32767);
        }
        std::vector<std::int32_t> c(static_cast<std::size_t>(m * (n + 2)), 11);
        const std::int64_t row = transposed ? 1 : n;
        const std::int64_t col = transposed ? depth : 1;
        kernels::product_i16(m, n, depth, {a.data(), depth, 1}, {b.data(), row, col},
                             {c.data(), n + 2, 1});
        bool equal = true;
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t j = 0; j < n + 2; ++j) {
            std::uint64_t sum = 11;
            for (std::int64_t k = 0; j < n && k < depth; ++k) {
              sum +=
                  static_cast<std::uint64_t>(std::int64_t{a[i * depth + k]} * b[k * row + j * col]);
            }
            equal = equal && static_cast<std::uint32_t>(sum) ==
                                 static_cast<std::uint32_t>(c[i * (n + 2) + j]);
          }
        }
        CHECK(equal);
      }
    }
  });
}

TEST_CASE("A product of a packed matrix has the bits of that of the matrix", "[kernels]") {
  const Philox philox(6);
  with_every_isa([&] {
    for (const auto& [m, n, depth] : kExtents) {
      CAPTURE(m, n, depth);
      const auto check = [&]<class T>(auto product, auto pack, auto product_packed) {
        std::vector<T> a(static_cast<std::size_t>(m * depth));
        std::vector<T> b(static_cast<std::size_t>(n * depth));
        for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<T>(philox.word(i)) / T(3e8);
        for (std::size_t i = 0; i < b.size(); ++i) {
          b[i] = static_cast<T>(philox.word(i + 77777)) / T(5e8) - T(4);
        }
        std::vector<T> expected(static_cast<std::size_t>(m * (n + 1)), T(0.5));
        std::vector<T> given = expected;
        const Matrix<const T> right{b.data(), 1, depth};
        product(m, n, depth, Matrix<const T>{a.data(), depth, 1}, right,
                Matrix<T>{expected.data(), n + 1, 1});
        std::vector<T> packed(static_cast<std::size_t>(kernels::packed_size(n, depth)));
        pack(n, depth, right, packed.data());
        product_packed(m, n, depth, Matrix<const T>{a.data(), depth, 1}, packed.data(),
                       Matrix<T>{given.data(), n + 1, 1});
        CHECK(given == expected);
      };
      check.operator()<float>(kernels::product_f32, kernels::pack_f32, kernels::product_packed_f32);
      check.operator()<double>(kernels::product_f64, kernels::pack_f64,
                               kernels::product_packed_f64);
    }
  });
}
