// SPDX-License-Identifier: Apache-2.0
// Masks: never outside their memory, exact in count, equal for any strides and instruction set.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include <moptcore/prune/prune.hpp>

#include "input.hpp"

namespace {

using namespace moptcore;
using fuzz::Input;
using fuzz::require;
using fuzz::Tensor;

std::int64_t zeros_of(const Tensor& mask) {
  return std::count(mask.memory.get(), mask.memory.get() + mask.bytes, std::byte{0});
}

void mask(Input& input, const Tensor& weights, const Tensor& kept, std::uint8_t kind,
          prune::NonFinite nonfinite) {
  const double sparsity = input.fraction();
  const std::int64_t size = weights.view.size();
  switch (kind % 4) {
    case 0:
      prune::magnitude_mask(weights.view, sparsity, kept.view, {.nonfinite = nonfinite});
      require(zeros_of(kept) == prune::zero_count(size, sparsity));
      break;
    case 1:
      prune::structured_mask(weights.view, sparsity, kept.view,
                             {.axis = input.between(-5, 5),
                              .ord = input.coin() ? 2.0 : input.take<std::uint8_t>() / 16.0,
                              .nonfinite = nonfinite});
      break;
    case 2:
      prune::block_mask(weights.view, sparsity, kept.view,
                        {.rows = input.between(-1, 6),
                         .cols = input.between(0, 6),
                         .pooling = input.coin() ? prune::Pooling::mean : prune::Pooling::max,
                         .nonfinite = nonfinite});
      break;
    default:
      prune::nm_mask(weights.view, input.between(-1, 6), input.between(0, 8), kept.view,
                     {.axis = input.between(-5, 5), .nonfinite = nonfinite});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const auto kind = input.take<std::uint8_t>();
  const auto nonfinite = static_cast<prune::NonFinite>(input.between(0, 2));
  try {
    const Tensor weights = input.tensor(input.floating(), input.shape());
    const Tensor dense = weights.contiguous();
    Tensor kept[2] = {Tensor(DType::boolean, weights.view.shape()),
                      Tensor(DType::boolean, weights.view.shape())};
    fuzz::on_two_isas([&](int turn) {
      Input same = input;
      mask(same, turn == 0 ? weights : dense, kept[turn], kind, nonfinite);
    });
    require(kept[0].same_bits(kept[1]));

    Tensor packed(DType::uint8, {prune::packed_size(kept[0].view.size())});
    Tensor unpacked(DType::boolean, weights.view.shape());
    prune::pack_mask(kept[0].view, packed.view);
    prune::unpack_mask(packed.view, unpacked.view);
    require(unpacked.same_bits(kept[0]));

    prune::apply_mask(dense.view, packed.view, dense.view);
    require(prune::count_zeros(dense.view) >= zeros_of(kept[0]));
  } catch (const Error&) {  // a bad argument
    return 0;
  } catch (const std::out_of_range&) {  // an axis that the tensor lacks
    return 0;
  }
  return 0;
}
