// SPDX-License-Identifier: Apache-2.0
// Prunes a layer's weights, fake-quantizes them and computes a distillation loss, on plain
// vectors. Every call takes views: no array type is forced on the program, nothing is copied.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <random>
#include <vector>

#include <moptcore/moptcore.hpp>

namespace prune = moptcore::prune;
namespace quant = moptcore::quant;
namespace distill = moptcore::distill;
using moptcore::Shape;
using moptcore::TensorView;

namespace {

std::vector<float> normal(std::int64_t n, std::mt19937& random) {
  std::normal_distribution<float> gauss;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = gauss(random);
  return values;
}

}  // namespace

int main() {
  std::cout << "moptcore " << MOPTCORE_VERSION << ", " << moptcore::current_isa() << ", "
            << moptcore::num_threads() << " threads\n"
            << std::fixed << std::setprecision(4);
  std::mt19937 random(0);

  // Prune: a schedule says how much, a mask which. The mask has one bit a weight.
  const Shape shape{256, 512};
  std::vector<float> storage = normal(256 * 512, random);
  const TensorView<float> weights(storage.data(), shape);
  const prune::PolynomialDecay schedule({.final_sparsity = 0.8, .begin_step = 0, .end_step = 100});
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(prune::packed_size(weights.size())));
  for (const prune::Step step : {25, 50, 100}) {
    prune::magnitude_mask(weights, schedule.sparsity(step), mask);
    prune::apply_mask(weights, mask, weights);
    std::cout << "step " << std::setw(3) << step << ": asked " << schedule.sparsity(step)
              << ", zeros " << prune::count_zeros(weights) << " of " << weights.size() << '\n';
  }
  const bool exact =
      prune::count_zeros(weights) == prune::zero_count(weights.size(), schedule.sparsity(100));

  // Quantize: one scale per output channel. Zeros stay zeros, and no weight moves by more than
  // half a step.
  quant::MinMaxObserver observer(/*axis=*/0);
  observer.update(weights);
  const moptcore::QParams grid = observer.qparams(moptcore::DType::int8, /*symmetric=*/true);
  std::vector<float> rounded(storage.size());
  quant::fake_quantize(weights, grid.view(), TensorView<float>(rounded.data(), shape));
  double worst = 0.0;
  for (std::size_t i = 0; i < storage.size(); ++i) {
    const double step = grid.scale()[i / 512];
    worst = std::max(worst, std::abs(static_cast<double>(rounded[i]) - storage[i]) / step);
  }
  std::cout << "int8: " << grid.size() << " scales, largest error " << worst << " steps, zeros "
            << prune::count_zeros(rounded) << '\n';

  // Distil: loss and gradient in one pass.
  const Shape logits{32, 10};
  std::vector<float> student = normal(320, random), teacher = normal(320, random), grad(320);
  std::vector<std::int64_t> labels(32);
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int64_t>(i % 10);
  const auto loss = [&] {
    return distill::soft_target_loss(TensorView<float>(student.data(), logits),
                                     TensorView<float>(teacher.data(), logits),
                                     moptcore::AnyView(labels), {.temperature = 4.0, .alpha = 0.7},
                                     TensorView<float>(grad.data(), logits));
  };
  const double before = loss();
  for (int step = 0; step < 100; ++step) {
    for (std::size_t i = 0; i < student.size(); ++i) student[i] -= 10.0f * grad[i];
    loss();
  }
  const double after = loss();
  std::cout << "distillation loss: " << before << ", after 100 steps along its gradient " << after
            << '\n';

  // The last half step is a rounding of float32 away from 0.5.
  const bool good = exact && worst < 0.5001 &&
                    prune::count_zeros(rounded) >= prune::count_zeros(weights) && after < before;
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
