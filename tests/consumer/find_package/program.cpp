// SPDX-License-Identifier: Apache-2.0
// Uses the library as a stranger does: links it, calls it, catches its errors.
#include <cstdio>
#include <string>
#include <vector>

#include <moptcore/moptcore.hpp>

int main() {
  const std::vector<float> weights{0.5f, -0.1f, 2.0f, 0.0f, -3.0f};
  std::vector<float> copy(weights.size());
  moptcore::copy_elements(weights, copy);
  if (copy != weights) return 1;

  try {
    moptcore::set_num_threads(0);
    return 2;
  } catch (const moptcore::Error& error) {
    if (std::string(error.what()).find(", got 0") == std::string::npos) return 3;
  }
  std::puts(MOPTCORE_VERSION);
}
