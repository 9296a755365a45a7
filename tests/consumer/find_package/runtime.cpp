// SPDX-License-Identifier: Apache-2.0
// What calls oneDNN, with the oneDNN that was installed beside the library.
#include <array>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <moptcore/moptcore.hpp>
#include <moptcore/runtime/runtime.hpp>

int main() {
  const std::vector<float> weights{0.5f, -1.0f, 2.0f, 0.0f, -64.0f};
  std::array<std::int8_t, 5> integers{};
  moptcore::runtime::quantize(weights, moptcore::QParams(0.5f), integers);
  std::puts(moptcore::runtime::onednn_version().c_str());
  return integers == std::array<std::int8_t, 5>{1, -2, 4, 0, -128} ? 0 : 1;
}
