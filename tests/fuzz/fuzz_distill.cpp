// SPDX-License-Identifier: Apache-2.0
// The soft-target loss: never outside its memory, equal bits for any strides.
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
    // The plainest instruction set has no fused multiply-add, so it is compared with itself only.
    for (const char* isa : {"baseline", ""}) {
      set_max_isa(isa);
      const double strided =
          distill::soft_target_loss(student.view, teacher.view, labels_view, options, grad[0].view);
      const double flat =
          distill::soft_target_loss(dense.view, teacher.view, labels_view, options, grad[1].view);
      require(std::bit_cast<std::uint64_t>(strided) == std::bit_cast<std::uint64_t>(flat));
      require(grad[0].same_bits(grad[1]));
    }
  } catch (const Error&) {  // a bad argument
    return 0;
  } catch (const std::out_of_range&) {  // an axis that the tensor lacks
    return 0;
  }
  return 0;
}
