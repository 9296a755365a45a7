// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "catch.hpp"
#include "graph/operators/gemm.hpp"
#include "graph/run_node.hpp"

using namespace moptcore;
using namespace moptcore::graph;
using run_node::run;
using run_node::values;

namespace {

// Small integers: every sum of products here is exact in float.
template <class T>
Tensor integers(const Shape& shape, unsigned seed) {
  Tensor tensor(type_of<T>(), shape);
  std::mt19937 random(seed);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.mutable_data<T>()[i] = static_cast<T>(static_cast<int>(random() % 9) - 4);
  }
  return tensor;
}

template <class T>
void expect_product(std::int64_t m, std::int64_t n, std::int64_t depth, const Matrix<const T>& a,
                    const Matrix<const T>& b, const Matrix<T>& c) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      T sum = 1;
      for (std::int64_t k = 0; k < depth; ++k) {
        sum += a.data[i * a.row_stride + k * a.col_stride] *
               b.data[k * b.row_stride + j * b.col_stride];
      }
      if (c.data[i * c.row_stride + j] != sum) {
        FAIL("element " << i << ", " << j << " of " << m << " x " << n << " x " << depth);
      }
    }
  }
}

template <class T>
void check_gemm() {
  const std::int64_t extents[] = {1, 2, 3, 4, 5, 17, 70, 129};
  const Tensor left = integers<T>(Shape{129 * 300}, 1);
  const Tensor right = integers<T>(Shape{129 * 300}, 2);
  for (const std::int64_t m : extents) {
    for (const std::int64_t n : extents) {
      for (const std::int64_t depth : {0, 1, 7, 16, 33, 257}) {
        for (int flips = 0; flips < 4; ++flips) {
          const bool flip_a = (flips & 1) != 0;
          const bool flip_b = (flips & 2) != 0;
          const Matrix<const T> a{left.data<T>(), flip_a ? 1 : depth, flip_a ? m : 1};
          const Matrix<const T> b{right.data<T>(), flip_b ? 1 : n, flip_b ? depth : 1};
          std::vector<T> sums(m * (n + 2), T(1));
          const Matrix<T> c{sums.data(), n + 2, 1};
          gemm(m, n, depth, a, b, c);
          expect_product(m, n, depth, a, b, c);
          for (std::int64_t i = 0; i < m; ++i) {
            if (sums[i * (n + 2) + n] != 1 || sums[i * (n + 2) + n + 1] != 1) {
              FAIL("wrote behind row " << i);
            }
          }
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("gemm adds the product of matrices of any strides", "[graph]") {
  check_gemm<float>();
  check_gemm<double>();
  check_gemm<std::uint32_t>();
}

TEST_CASE("gemm has equal bits at any number of threads", "[graph]") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> a(300 * 270);
  std::vector<float> b(270 * 190);
  for (float& value : a) value = normal(random);
  for (float& value : b) value = normal(random);
  for (const std::int64_t m : {std::int64_t{1}, std::int64_t{3}, std::int64_t{300}}) {
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 5}) {
      const int before = num_threads();
      set_num_threads(threads);
      std::vector<float> c(m * 190, 0.0f);
      gemm(m, 190, 270, Matrix<const float>{a.data(), 270, 1},
           Matrix<const float>{b.data(), 190, 1}, Matrix<float>{c.data(), 190, 1});
      set_num_threads(before);
      results.push_back(c);
    }
    CHECK(results[0] == results[1]);
    CHECK(results[0] == results[2]);
  }
}

TEST_CASE("MatMul broadcasts batches and takes vectors on either side", "[graph]") {
  const Tensor a = integers<float>(Shape{3, 1, 4, 5}, 4);
  const Tensor b = integers<float>(Shape{2, 5, 6}, 5);
  const Tensor c = run("MatMul", {a, b});
  REQUIRE(c.shape() == Shape{3, 2, 4, 6});
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t batch = 0; batch < 2; ++batch) {
      for (std::int64_t row = 0; row < 4; ++row) {
        for (std::int64_t col = 0; col < 6; ++col, ++at) {
          float sum = 0;
          for (std::int64_t k = 0; k < 5; ++k) {
            sum += a.values<float>()[(i * 4 + row) * 5 + k] *
                   b.values<float>()[(batch * 5 + k) * 6 + col];
          }
          REQUIRE(c.values<float>()[at] == sum);
        }
      }
    }
  }
  const Tensor row = Tensor::of<std::int64_t>(Shape{2}, {2, 3});
  const Tensor square = Tensor::of<std::int64_t>(Shape{2, 2}, {1, 2, 3, 4});
  CHECK(values<std::int64_t>(run("MatMul", {row, square})) == std::vector<std::int64_t>{11, 16});
  CHECK(values<std::int64_t>(run("MatMul", {square, row})) == std::vector<std::int64_t>{8, 18});
  const Tensor inner = run("MatMul", {row, row});
  CHECK(inner.rank() == 0);
  CHECK(values<std::int64_t>(inner) == std::vector<std::int64_t>{13});
  const Tensor none = run("MatMul", {Tensor(ElementType::float32, Shape{2, 0}),
                                     Tensor(ElementType::float32, Shape{0, 3})});
  CHECK(values<float>(none) == std::vector<float>(6, 0.0f));
  CHECK_THROWS_WITH(run("MatMul", {row, Tensor(ElementType::int64, Shape{3, 2})}),
                    "[graph.MatMul] the rows of input 1 must be as many as the columns of input 0, "
                    "2, got 3");
  CHECK_THROWS_AS(run("MatMul", {Tensor::scalar(1.0f), a}), Error);
}

TEST_CASE("Gemm scales, transposes and adds a bias that broadcasts", "[graph]") {
  const Tensor a = Tensor::of<float>(Shape{2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor b = Tensor::of<float>(Shape{2, 2}, {1, 0, 0, 2});
  const Tensor c = Tensor::of<float>(Shape{3, 1}, {10, 20, 30});
  const std::int64_t one = 1;
  const Tensor y = run("Gemm", {a, b, c}, {{{"transA", one}, {"alpha", 0.5f}, {"beta", 2.0f}}});
  CHECK(values<float>(y) == std::vector<float>{20.5f, 24, 41, 45, 61.5f, 66});
  CHECK(run("Gemm", {b, a}).shape() == Shape{2, 3});
  CHECK_THROWS_AS(run("Gemm", {a, b}), Error);
  CHECK_THROWS_AS(run("Gemm", {b, a, Tensor(ElementType::float32, Shape{4, 2, 3})}), Error);
}

TEST_CASE("MatMulInteger takes zero points of rows and columns away exactly", "[graph]") {
  const Tensor a = Tensor::of<std::uint8_t>(Shape{2, 2}, {255, 0, 3, 4});
  const Tensor b = Tensor::of<std::int8_t>(Shape{2, 2}, {-128, 127, 1, 2});
  const Tensor rows = Tensor::of<std::uint8_t>(Shape{2}, {0, 3});
  const Tensor columns = Tensor::of<std::int8_t>(Shape{2}, {127, -128});
  // (255, 0; 0, 1) (-255, 255; -126, 130)
  CHECK(values<std::int32_t>(run("MatMulInteger", {a, b, rows, columns})) ==
        std::vector<std::int32_t>{-65025, 65025, -126, 130});
  Tensor long_row(ElementType::uint8, Shape{1, 70000});
  std::fill_n(long_row.mutable_data<std::uint8_t>(), 70000, 255);
  const Tensor square = run("MatMulInteger", {long_row, long_row.reshaped(Shape{70000, 1})});
  // 70000 * 65025 is beyond 2^32 and wraps around.
  CHECK(values<std::int32_t>(square)[0] ==
        static_cast<std::int32_t>(static_cast<std::uint32_t>(std::int64_t{70000} * 65025)));
}

TEST_CASE("Det is exact for triangles, permutations and singular matrices", "[graph]") {
  const Tensor x = Tensor::of<float>(Shape{3, 3, 3}, {2, 5, 7, 0, 3, 9, 0, 0, 4,  //
                                                      0, 1, 0, 1, 0, 0, 0, 0, 1,  //
                                                      1, 2, 3, 2, 4, 6, 1, 0, 1});
  CHECK(values<float>(run("Det", {x})) == std::vector<float>{24, -1, 0});
  CHECK_THROWS_AS(run("Det", {Tensor(ElementType::float32, Shape{2, 3})}), Error);
}

TEST_CASE("Einsum agrees with summing every index out", "[graph]") {
  const auto einsum = [](const char* equation, const std::vector<Value>& inputs) {
    return run("Einsum", inputs, {{{"equation", std::string(equation)}}});
  };
  const Tensor a = integers<double>(Shape{2, 3, 4}, 6);
  const Tensor b = integers<double>(Shape{4, 3}, 7);
  const Tensor c = integers<double>(Shape{5, 2}, 8);
  const auto av = a.values<double>();
  const auto bv = b.values<double>();
  const auto cv = c.values<double>();
  const Tensor three = einsum("bij, jk, lb -> kl", {a, b, c});
  REQUIRE(three.shape() == Shape{3, 5});
  for (std::int64_t k = 0; k < 3; ++k) {
    for (std::int64_t l = 0; l < 5; ++l) {
      double sum = 0;
      for (std::int64_t batch = 0; batch < 2; ++batch) {
        for (std::int64_t i = 0; i < 3; ++i) {
          for (std::int64_t j = 0; j < 4; ++j) {
            sum += av[(batch * 3 + i) * 4 + j] * bv[j * 3 + k] * cv[l * 2 + batch];
          }
        }
      }
      CHECK(three.values<double>()[k * 5 + l] == sum);
    }
  }
  const Tensor shared = einsum("bij,ji->bi", {a, b});
  for (std::int64_t batch = 0; batch < 2; ++batch) {
    for (std::int64_t i = 0; i < 3; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j < 4; ++j) sum += av[(batch * 3 + i) * 4 + j] * bv[j * 3 + i];
      CHECK(shared.values<double>()[batch * 3 + i] == sum);
    }
  }
  const Tensor square = Tensor::of<std::int8_t>(Shape{2, 2}, {1, 2, 3, 100});
  CHECK(values<std::int8_t>(einsum("ii", {square})) == std::vector<std::int8_t>{101});
  CHECK(values<std::int8_t>(einsum("ii->i", {square})) == std::vector<std::int8_t>{1, 100});
  CHECK(values<std::int8_t>(einsum("ji", {square})) == std::vector<std::int8_t>{1, 3, 2, 100});
  // 100 * 100 wraps around in int8.
  CHECK(values<std::int8_t>(einsum("ij,ij->", {square, square})) ==
        std::vector<std::int8_t>{static_cast<std::int8_t>(1 + 4 + 9 + 10000)});
  const Tensor wide = einsum("...ij,jk->...ik", {a, b});
  CHECK(wide.shape() == Shape{2, 3, 3});
  const Tensor stretched = einsum("a...,...", {Tensor::of<float>(Shape{2, 1}, {1, 10}),
                                               Tensor::of<float>(Shape{3}, {1, 2, 3})});
  CHECK(stretched.shape() == Shape{3, 2});
  CHECK(values<float>(stretched) == std::vector<float>{1, 10, 2, 20, 3, 30});
  const Tensor outer = einsum(
      "i,j->ij", {Tensor(ElementType::float32, Shape{0}), Tensor::of<float>(Shape{2}, {1, 2})});
  CHECK(outer.shape() == Shape{0, 2});
}

TEST_CASE("Einsum refuses equations that do not fit its inputs", "[graph]") {
  const Tensor a = integers<float>(Shape{2, 3}, 9);
  for (const char* equation : {"ij,jk->ik", "ijk->i", "i->i", "ij->ii", "ij->k", "i1->i",
                               "ij->i...j...", "", "...i...j"}) {
    INFO(equation);
    CHECK_THROWS_AS(run("Einsum", {a}, {{{"equation", std::string(equation)}}}), Error);
  }
  CHECK_THROWS_AS(run("Einsum", {a, a}, {{{"equation", std::string("ij,jk->ik")}}}), Error);
}
