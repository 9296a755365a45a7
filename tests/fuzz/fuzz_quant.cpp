// SPDX-License-Identifier: Apache-2.0
// Quantization: never outside its memory, equal for any strides and instruction set, and what
// training simulates is what quantize and dequantize compute.
#include <cmath>
#include <stdexcept>
#include <vector>

#include <moptcore/quant/quant.hpp>

#include "input.hpp"

namespace {

using namespace moptcore;
using fuzz::Input;
using fuzz::require;
using fuzz::Tensor;

QParams qparams(Input& input, const Shape& shape) {
  constexpr DType kDTypes[] = {DType::int8, DType::uint8, DType::int16, DType::uint16};
  const DType dtype = kDTypes[input.between(0, 3)];
  std::optional<std::int64_t> axis;
  std::int64_t count = 1;
  if (shape.rank() > 0 && input.coin()) {
    axis = input.between(0, shape.rank() - 1);
    count = shape[static_cast<int>(*axis)];
  }
  std::vector<float> scale;
  std::vector<std::int32_t> zero_point;
  for (std::int64_t i = 0; i < count; ++i) {
    scale.push_back(input.take<std::uint8_t>() < 250
                        ? std::ldexp(1.0f + input.take<std::uint8_t>() / 256.0f,
                                     static_cast<int>(input.between(-20, 20)))
                        : input.take<float>());
    zero_point.push_back(static_cast<std::int32_t>(input.between(-130, 260)));
  }
  return QParams(scale, zero_point, axis, {.dtype = dtype});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  try {
    const Shape shape = input.shape();
    const DType dtype = input.floating();
    const Tensor x = input.tensor(dtype, shape);
    const Tensor dense = x.contiguous();
    const QParams params = qparams(input, shape);
    const auto compat = static_cast<quant::Compat>(input.between(0, 3));
    const auto bytes = static_cast<std::size_t>(quant::bit_bytes(x.view.size()));

    Tensor fake[2] = {Tensor(dtype, shape), Tensor(dtype, shape)};
    std::vector<std::uint8_t> bits[2] = {std::vector<std::uint8_t>(bytes),
                                         std::vector<std::uint8_t>(bytes)};
    fuzz::on_two_isas([&](int turn) {
      quant::fake_quantize(turn == 0 ? x.view : dense.view, params.view(), fake[turn].view,
                           bits[turn], quant::NonFinite::propagate, compat);
    });
    require(fake[0].same_bits(fake[1]));
    require(bits[0] == bits[1]);

    Tensor grad[2] = {Tensor(dtype, shape), Tensor(dtype, shape)};
    fuzz::on_two_isas([&](int turn) {
      quant::fake_quantize_backward(turn == 0 ? x.view : dense.view, bits[0], grad[turn].view);
    });
    require(grad[0].same_bits(grad[1]));

    Tensor integers[2] = {Tensor(params.dtype(), shape), Tensor(params.dtype(), shape)};
    fuzz::on_two_isas([&](int turn) {
      quant::quantize(turn == 0 ? x.view : dense.view, params, integers[turn].view,
                      quant::NonFinite::error, compat);
    });
    require(integers[0].same_bits(integers[1]));
    Tensor real(dtype, shape);
    quant::dequantize(integers[0].view, params, real.view);
    if (compat == quant::Compat::none) require(real.same_bits(fake[0]));
  } catch (const Error&) {  // a bad argument
    return 0;
  } catch (const std::out_of_range&) {  // an axis that the tensor lacks
    return 0;
  }
  return 0;
}
