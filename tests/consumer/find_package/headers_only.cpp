// SPDX-License-Identifier: Apache-2.0
// What moptcore::headers promises works without linking anything.
#include <moptcore/core/check.hpp>
#include <moptcore/core/tensor_view.hpp>

int main() {
  float elements[] = {1.0f, 2.0f, 3.0f, 4.0f};
  const moptcore::TensorView<float> view(elements, {2, 2});
  if (view.size() != 4) return 1;
  try {
    moptcore::check(false, "core.test", "number must be even", 3);
  } catch (const moptcore::Error&) {
    return 0;
  }
  return 2;
}
