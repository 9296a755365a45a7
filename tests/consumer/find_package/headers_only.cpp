// SPDX-License-Identifier: Apache-2.0
// What moptcore::headers promises works without linking anything.
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/prune/schedule.hpp>
#include <moptcore/quant/fake_quant.hpp>

int main() {
  const moptcore::prune::PolynomialDecay decay(
      {.initial_sparsity = 0.0, .final_sparsity = 0.8, .begin_step = 0, .end_step = 1000});
  if (decay.sparsity(500) != 0.8 - 0.8 * 0.125) return 1;
  if (moptcore::quant::fake_quantize(0.26f, {.scale = 0.5f}) != 0.5f) return 2;

  float elements[] = {1.0f, 2.0f, 3.0f, 4.0f};
  const moptcore::TensorView<float> view(elements, {2, 2});
  if (view.size() != 4) return 3;
  try {
    const moptcore::prune::PolynomialDecay empty({.begin_step = 5, .end_step = 5});
  } catch (const moptcore::Error&) {
    return 0;
  }
  return 4;
}
