// SPDX-License-Identifier: Apache-2.0
// Uses the library as a stranger does: links it, calls it, catches its errors.
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include <moptcore/moptcore.hpp>

int main() {
  const std::vector<float> weights{0.5f, -0.1f, 2.0f, 0.0f, -3.0f};
  std::array<bool, 5> keep{};
  moptcore::prune::magnitude_mask(weights, 0.4, keep);
  if (keep != std::array{true, false, true, false, true}) return 1;

  std::vector<float> rounded(weights.size());
  moptcore::quant::fake_quantize(weights, moptcore::QParams(0.5f).view(), rounded);
  if (rounded != std::vector<float>{0.5f, 0.0f, 2.0f, 0.0f, -3.0f}) return 2;

  try {
    moptcore::prune::magnitude_mask(weights, 1.5, keep);
    return 3;
  } catch (const moptcore::Error& error) {
    if (std::string(error.what()) != "[prune.magnitude_mask] sparsity must be in [0, 1), got 1.5") {
      std::puts(error.what());
      return 4;
    }
  }
  std::puts(MOPTCORE_VERSION);
}
