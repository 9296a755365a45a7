// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/distill.hpp>

#include "isas.hpp"

int main(int argc, char** argv) {
  namespace bench = moptcore::bench;
  namespace distill = moptcore::distill;
  constexpr std::int64_t kRows = 512;
  constexpr std::int64_t kClasses = 1000;
  auto student = bench::normal_numbers(kRows * kClasses);
  auto teacher = bench::normal_numbers(kRows * kClasses + 1);
  std::vector<float> grad(student.size());
  std::vector<std::int64_t> labels(kRows);
  for (std::int64_t row = 0; row < kRows; ++row) {
    labels[static_cast<std::size_t>(row)] = row * 7 % kClasses;
  }
  const moptcore::TensorView<float> s(student.data(), {kRows, kClasses});
  const moptcore::TensorView<float> t(teacher.data() + 1, {kRows, kClasses});
  const moptcore::TensorView<float> g(grad.data(), {kRows, kClasses});

  bench::on_every_isa("soft_target_loss", kRows * kClasses, [&] {
    benchmark::DoNotOptimize(distill::soft_target_loss(s, t, labels, {}, g));
  });
  return bench::run(argc, argv);
}
