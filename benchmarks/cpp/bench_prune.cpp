// SPDX-License-Identifier: Apache-2.0
// Masks against one pass over the same memory: read the floats, write a byte for each.
#include <benchmark/benchmark.h>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>
#include <moptcore/core/random.hpp>
#include <moptcore/prune/prune.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>

namespace {

using namespace moptcore;

struct Tensor {
  explicit Tensor(std::int64_t n) : size(n), floats(pool_allocate(4 * n)), bytes(pool_allocate(n)) {
    const Philox philox(1);
    float* values = data();
    for (std::int64_t i = 0; i + 1 < n; i += 2) {
      const auto block = philox(static_cast<std::uint64_t>(i));
      const double radius = std::sqrt(-2.0 * std::log((block[0] + 1.0) * 0x1p-32));
      const double angle = 2.0 * std::numbers::pi * block[1] * 0x1p-32;
      values[i] = static_cast<float>(radius * std::cos(angle));
      values[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
  float* data() const { return static_cast<float*>(floats.get()); }
  AnyView weights() const { return {data(), DType::float32, Shape{size}}; }
  AnyView matrix() const { return {data(), DType::float32, Shape{size / 4096, 4096}}; }
  MutableAnyView mask() const { return {bytes.get(), DType::boolean, Shape{size}}; }
  MutableAnyView matrix_mask() const {
    return {bytes.get(), DType::boolean, Shape{size / 4096, 4096}};
  }

  std::int64_t size;
  PoolBuffer floats;
  PoolBuffer bytes;
};

void finish(benchmark::State& state) {
  state.SetBytesProcessed(state.iterations() * state.range(0) * 5);
}

void memory_pass(benchmark::State& state) {
  const Tensor tensor(state.range(0));
  set_num_threads(static_cast<int>(state.range(1)));
  auto* mask = static_cast<std::uint8_t*>(tensor.bytes.get());
  for (auto _ : state) {
    parallel_for(tensor.size, 65536, [&](std::int64_t first, std::int64_t last) {
      const auto* src = reinterpret_cast<const std::uint32_t*>(tensor.data());
      std::uint32_t all = 0;
      for (std::int64_t i = first; i < last; ++i) all |= src[i];
      std::memset(mask + first, static_cast<int>(all & 1u), static_cast<std::size_t>(last - first));
    });
    benchmark::ClobberMemory();
  }
  finish(state);
}

void magnitude_mask(benchmark::State& state) {
  const Tensor tensor(state.range(0));
  set_num_threads(static_cast<int>(state.range(1)));
  for (auto _ : state) {
    prune::magnitude_mask(tensor.weights(), 0.8, tensor.mask());
    benchmark::ClobberMemory();
  }
  finish(state);
}

void nm_mask(benchmark::State& state) {
  const Tensor tensor(state.range(0));
  set_num_threads(static_cast<int>(state.range(1)));
  for (auto _ : state) {
    prune::nm_mask(tensor.matrix(), 2, 4, tensor.matrix_mask());
    benchmark::ClobberMemory();
  }
  finish(state);
}

void structured_mask(benchmark::State& state) {
  const Tensor tensor(state.range(0));
  set_num_threads(static_cast<int>(state.range(1)));
  const PoolBuffer bytes = pool_allocate(tensor.size / 4096);
  const MutableAnyView mask(bytes.get(), DType::boolean, Shape{tensor.size / 4096});
  for (auto _ : state) {
    prune::structured_mask(tensor.matrix(), 0.5, mask);
    benchmark::ClobberMemory();
  }
  finish(state);
}

void apply_mask(benchmark::State& state) {
  const Tensor tensor(state.range(0));
  set_num_threads(static_cast<int>(state.range(1)));
  prune::magnitude_mask(tensor.weights(), 0.8, tensor.mask());
  const MutableAnyView out(tensor.data(), DType::float32, Shape{tensor.size});
  for (auto _ : state) {
    prune::apply_mask(tensor.weights(), tensor.mask(), out);
    benchmark::ClobberMemory();
  }
  finish(state);
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"n", "threads"})
      ->ArgsProduct({{1 << 20, 1 << 24, 1 << 26}, {1, 2}})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

BENCHMARK(memory_pass)->Apply(sizes);
BENCHMARK(magnitude_mask)->Apply(sizes);
BENCHMARK(nm_mask)->Apply(sizes);
BENCHMARK(structured_mask)->Apply(sizes);
BENCHMARK(apply_mask)->Apply(sizes);

}  // namespace
