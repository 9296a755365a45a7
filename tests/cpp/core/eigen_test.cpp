// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/eigen.hpp>
#include <moptcore/xtensor.hpp>

#include "kernels/strided.hpp"

using namespace moptcore;

namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// The elements as moptcore sees them.
RowMajor seen(const AnyView& view) {
  REQUIRE(view.rank() == 2);
  RowMajor values(view.shape()[0], view.shape()[1]);
  kernels::load(view, 0, view.size(), values.data());
  return values;
}

Eigen::MatrixXf counted() {
  Eigen::MatrixXf m(4, 5);
  for (int i = 0; i < 20; ++i) m(i / 5, i % 5) = static_cast<float>(i);
  return m;
}

}  // namespace

TEST_CASE("Eigen's matrices, arrays, maps and blocks are seen as they are", "[core][eigen]") {
  Eigen::MatrixXf columns = counted();
  const RowMajor rows = columns;
  CHECK(AnyView(columns).strides() == Shape{1, 4});
  CHECK(AnyView(rows).strides() == Shape{5, 1});
  CHECK(AnyView(rows).is_contiguous());
  CHECK(seen(columns) == rows);
  CHECK(seen(rows) == rows);
  CHECK(seen(Eigen::ArrayXXf(columns.array())) == rows);
  CHECK(seen(columns.block(1, 2, 2, 3)) == rows.block(1, 2, 2, 3));
  CHECK(seen(columns.transpose()) == rows.transpose());
  CHECK(seen(columns.row(2)) == rows.row(2));
  Eigen::Ref<Eigen::MatrixXf> part = columns.topRows(2);
  CHECK(seen(part) == rows.topRows(2));

  using Stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  const Eigen::Map<const Eigen::MatrixXf, 0, Stride> every_other(columns.data(), 2, 2,
                                                                 Stride(8, 2));
  CHECK(AnyView(every_other).strides() == Shape{2, 8});
  CHECK(seen(every_other) == every_other);
  const Eigen::Map<const Eigen::MatrixXf, 0, Stride> repeated(columns.data(), 3, 2, Stride(0, 1));
  CHECK(AnyView(repeated).strides() == Shape{1, 0});
  CHECK(seen(repeated) == repeated);
  const auto reversed = columns.colwise().reverse().eval();
  CHECK(seen(reversed) == rows.colwise().reverse());

  const MutableAnyView out(columns.row(1));
  const std::vector<float> values(5, -1.0f);
  kernels::store(values.data(), 0, 5, out);
  CHECK((columns.row(1).array() == -1.0f).all());
  CHECK(columns(0, 0) == 0.0f);
  CHECK(columns(2, 0) == 10.0f);
  STATIC_REQUIRE(!std::is_convertible_v<const Eigen::MatrixXf&, MutableAnyView>);
}

TEST_CASE("the functions of the Eigen door return arrays", "[core][eigen]") {
  const Eigen::MatrixXf weights = counted().array() - 9.5f;
  const auto mask = prune::magnitude_mask(weights, 0.5);
  CHECK((mask == (weights.array().abs() > 5.0f)).all());
  CHECK((prune::apply_mask(weights, mask) == mask.select(weights.array(), 0.0f)).all());
  const RowMajor rows = weights;
  const auto row_mask = prune::magnitude_mask(rows, 0.5);
  STATIC_REQUIRE(decltype(row_mask)::IsRowMajor);
  CHECK((row_mask == mask).all());
  const auto slices = prune::structured_mask(weights, 0.5);
  CHECK(slices.size() == 4);
  CHECK((slices(0) && !slices(1) && !slices(2) && slices(3)));
  const auto pairs = prune::nm_mask(Eigen::Matrix<float, 1, 4>(1, -4, 3, 2), 1, 2);
  CHECK((!pairs(0) && pairs(1) && pairs(2) && !pairs(3)));
  Eigen::Matrix<float, 2, 4> tiles;
  tiles << 1, 2, 9, 9, 3, 4, 9, 9;
  prune::BlockOptions squares;
  squares.rows = squares.cols = 2;
  const auto blocks = prune::block_mask(tiles, 0.5, squares);
  CHECK((blocks == (tiles.array() > 5.0f)).all());

  const QParams params(0.5f);
  const Eigen::Array4f x(-1.3f, 0.25f, 0.75f, 1000.0f);
  const auto q = quant::quantize<std::int8_t>(x, params);
  CHECK((q == Eigen::Array<std::int8_t, 4, 1>(-3, 0, 2, 127)).all());  // ties to even
  const auto back = quant::dequantize(q, params);
  CHECK((back == Eigen::Array4f(-1.5f, 0.0f, 1.0f, 63.5f)).all());
  CHECK((quant::fake_quantize(x, params) == back).all());

  Eigen::MatrixXf student(2, 3);
  student << 1, 2, 3, 3, 2, 1;
  const RowMajor teacher = student;
  const Eigen::VectorXi labels = Eigen::Vector2i(2, 0);
  const auto soft = distill::soft_target_loss(student, teacher, flat_view(labels), {.alpha = 1.0});
  CHECK(soft.loss == 0.0);
  CHECK((soft.grad == 0.0f).all());
  const auto feature = distill::feature_loss(student, (teacher.array() + 3.0f).eval());
  CHECK(feature.loss == 9.0);
  CHECK((feature.grad == -1.0f).all());
}
