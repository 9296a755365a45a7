// SPDX-License-Identifier: Apache-2.0
#include "catch.hpp"

#include <moptcore/xtensor.hpp>

#include <xtensor/xfixed.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>

#include "kernels/strided.hpp"

using namespace moptcore;

namespace {

// The elements as moptcore sees them.
template <class T>
std::vector<T> seen(const AnyView& view) {
  std::vector<T> values(static_cast<std::size_t>(view.size()));
  kernels::load(view, 0, view.size(), values.data());
  return values;
}

// The elements as xtensor sees them.
template <class E>
std::vector<float> listed(const E& expression) {
  return {expression.template begin<xt::layout_type::row_major>(),
          expression.template end<xt::layout_type::row_major>()};
}

xt::xarray<float> counted() {
  xt::xarray<float> values = xt::arange<float>(60);
  values.reshape({3, 4, 5});
  return values;
}

}  // namespace

TEST_CASE("xtensor containers are seen as they are", "[core][xtensor]") {
  const xt::xarray<float> array = counted();
  CHECK(AnyView(array).shape() == Shape{3, 4, 5});
  CHECK(AnyView(array).is_contiguous());
  CHECK(seen<float>(array) == listed(array));
  const xt::xtensor<float, 3> tensor = array;
  CHECK(seen<float>(tensor) == listed(array));
  const xt::xtensor<float, 3, xt::layout_type::column_major> columns = array;
  CHECK(AnyView(columns).strides() == Shape{1, 3, 12});
  CHECK(seen<float>(columns) == listed(array));
  const xt::xtensor_fixed<double, xt::xshape<2, 3>> fixed = {{1, 2, 3}, {4, 5, 6}};
  CHECK(AnyView(fixed).dtype() == DType::float64);
  CHECK(seen<double>(fixed) == std::vector<double>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("xtensor views with steps, reversed and broadcast axes are seen as they are",
          "[core][xtensor]") {
  xt::xarray<float> array = counted();
  auto steps = xt::strided_view(array, {xt::range(0, 3, 2), xt::all(), xt::range(1, 5, 2)});
  CHECK(AnyView(steps).shape() == Shape{2, 4, 2});
  CHECK(seen<float>(steps) == listed(steps));
  auto reversed = xt::strided_view(array, {xt::all(), xt::range(3, xt::placeholders::_, -1)});
  CHECK(AnyView(reversed).strides()[1] == -5);
  CHECK(seen<float>(reversed) == listed(reversed));
  auto transposed = xt::transpose(array, {2, 0, 1});
  CHECK(AnyView(transposed).shape() == Shape{5, 3, 4});
  CHECK(seen<float>(transposed) == listed(transposed));
  auto row = xt::view(array, 1, xt::all(), 2);
  CHECK(seen<float>(row) == listed(row));
  // xtensor gives axes of extent 1 stride 0.
  auto single = xt::strided_view(array, {xt::range(1, 2), xt::newaxis(), xt::all(), xt::all()});
  CHECK(AnyView(single).shape() == Shape{1, 1, 4, 5});
  CHECK(AnyView(single).is_contiguous());
  CHECK(seen<float>(single) == listed(single));
  // Writing goes to the elements of the view.
  const MutableAnyView out(steps);
  const std::vector<float> values(16, -1.0f);
  kernels::store(values.data(), 0, 16, out);
  CHECK(array(0, 0, 1) == -1.0f);
  CHECK(array(2, 3, 3) == -1.0f);
  CHECK(array(1, 0, 1) == 21.0f);
  CHECK(array(0, 0, 0) == 0.0f);
}

TEST_CASE("the functions of the xtensor door return containers", "[core][xtensor]") {
  const xt::xarray<float> weights = counted() - 29.5f;
  const xt::xarray<bool> mask = prune::magnitude_mask(weights, 0.5);
  CHECK((mask.shape() == weights.shape()));
  // The 30 smallest magnitudes are those in the middle.
  const xt::xarray<bool> expected = xt::abs(weights) > 15.0f;
  CHECK((mask == expected));
  CHECK((prune::apply_mask(weights, mask) == xt::where(mask, weights, 0.0f)));
  // A transposed view: the mask has its shape.
  auto transposed = xt::transpose(weights);
  const xt::xarray<bool> other = prune::magnitude_mask(transposed, 0.5);
  CHECK((other == xt::transpose(mask)));

  const xt::xarray<bool> slices = prune::structured_mask(weights, 1.0 / 3.0);
  CHECK((slices == xt::xarray<bool>{true, false, true}));
  const xt::xarray<bool> pairs = prune::nm_mask(xt::xarray<float>{1, -4, 3, 2}, 1, 2);
  CHECK((pairs == xt::xarray<bool>{false, true, true, false}));
  prune::BlockOptions squares;
  squares.rows = squares.cols = 2;
  const xt::xarray<bool> blocks =
      prune::block_mask(xt::xarray<float>{{1, 2, 9, 9}, {3, 4, 9, 9}}, 0.5, squares);
  CHECK((blocks == xt::xarray<bool>{{false, false, true, true}, {false, false, true, true}}));

  const QParams params(0.5f);
  const xt::xarray<float> x = {-1.3f, 0.25f, 0.75f, 1000.0f};
  const xt::xarray<std::int8_t> q = quant::quantize<std::int8_t>(x, params);
  CHECK((q == xt::xarray<std::int8_t>{-3, 0, 2, 127}));  // ties to even
  const xt::xarray<float> back = quant::dequantize(q, params);
  CHECK((back == xt::xarray<float>{-1.5f, 0.0f, 1.0f, 63.5f}));
  CHECK((quant::fake_quantize(x, params) == back));

  const xt::xarray<float> student = {{1, 2, 3}, {3, 2, 1}};
  const xt::xarray<float> teacher = {{1, 2, 3}, {3, 2, 1}};
  const auto soft = distill::soft_target_loss(student, teacher);
  CHECK(soft.loss == 0.0);
  CHECK((soft.grad == xt::zeros_like(student)));
  const auto feature = distill::feature_loss(student, xt::xarray<float>(teacher + 3.0f));
  CHECK(feature.loss == 9.0);
  CHECK((feature.grad == xt::full_like(student, -1.0f)));
}
