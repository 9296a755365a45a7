// SPDX-License-Identifier: Apache-2.0
// One benchmark for each instruction set, with elements per second.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <moptcore/core/core.hpp>

namespace moptcore::bench {

inline std::vector<float> normal_numbers(std::int64_t n) {
  std::mt19937_64 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<std::size_t>(n));
  for (float& number : numbers) number = normal(generator);
  return numbers;
}

/// `call` processes `elements` elements each time.
template <class F>
void on_every_isa(const std::string& name, std::int64_t elements, F call) {
  for (const std::string& isa : available_isas()) {
    benchmark::RegisterBenchmark((name + '/' + isa).c_str(),
                                 [isa, elements, call](benchmark::State& state) mutable {
                                   set_max_isa(isa);
                                   for (auto _ : state) call();
                                   state.SetItemsProcessed(state.iterations() * elements);
                                 });
  }
}

inline int run(int argc, char** argv) {
  set_num_threads(1);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace moptcore::bench
