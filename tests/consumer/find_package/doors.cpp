// SPDX-License-Identifier: Apache-2.0
#include <moptcore/eigen.hpp>
#include <moptcore/xtensor.hpp>

int main() {
  const Eigen::Array4f row(1.0f, -2.0f, 3.0f, -4.0f);
  const xt::xarray<float> array = {1.0f, -2.0f, 3.0f, -4.0f};
  const auto kept = moptcore::prune::magnitude_mask(row, 0.5);
  const auto same = moptcore::prune::magnitude_mask(array, 0.5);
  for (int i = 0; i < 4; ++i) {
    if (kept(i) != (i >= 2) || same(i) != (i >= 2)) return 1;
  }
  return 0;
}
