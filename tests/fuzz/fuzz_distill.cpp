// SPDX-License-Identifier: Apache-2.0
// The soft-target loss: never outside its memory, equal bits for any strides and instruction set.
#include <bit>
#include <optional>
#include <stdexcept>

#include <moptcore/distill/distill.hpp>

#include "input.hpp"

namespace {

using namespace moptcore;
using fuzz::Input;
using fuzz::require;
using fuzz::Tensor;

Shape without(const Shape& shape, std::int64_t axis) {
  Shape rows;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i != axis) rows.push_back(shape[i]);
  }
  return rows;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  try {
    const Shape shape = input.shape();
    const Tensor student = input.tensor(input.floating(), shape);
    const Tensor teacher = input.tensor(student.view.dtype(), shape);
    const Tensor dense = student.contiguous();
    const std::int64_t axis = input.between(-1, 4);
    const distill::SoftTargetOptions options{
        .temperature = input.take<std::uint8_t>() / 16.0,
        .alpha = input.fraction(),
        .axis = axis,
        .label_smoothing = input.coin() ? 0.0 : input.fraction(),
        .ignore_index = input.between(-2, 2),
        .reduction = static_cast<distill::Reduction>(input.between(0, 1))};
    std::optional<Tensor> labels;
    std::optional<AnyView> labels_view;
    if (input.coin()) {
      labels.emplace(DType::int8, without(shape, axis < 0 ? shape.rank() - 1 : axis));
      const std::int64_t most = input.between(0, 6);
      for (std::int64_t i = 0; i < labels->bytes; ++i) {
        labels->memory[i] = static_cast<std::byte>(input.between(0, most));
      }
      labels_view = labels->view;
    }
    Tensor grad[2] = {Tensor(student.view.dtype(), shape), Tensor(student.view.dtype(), shape)};
    double loss[2];
    fuzz::on_two_isas([&](int turn) {
      loss[turn] = distill::soft_target_loss(turn == 0 ? student.view : dense.view, teacher.view,
                                             labels_view, options, grad[turn].view);
    });
    require(std::bit_cast<std::uint64_t>(loss[0]) == std::bit_cast<std::uint64_t>(loss[1]));
    require(grad[0].same_bits(grad[1]));
  } catch (const Error&) {  // a bad argument
    return 0;
  } catch (const std::out_of_range&) {  // an axis that the tensor lacks
    return 0;
  }
  return 0;
}
