// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/pack.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>

#include "isas.hpp"

namespace {

// Like a layer of 80 % zeros and 32 other values.
std::vector<float> clustered(std::int64_t n) {
  std::vector<float> weights = moptcore::bench::normal_numbers(n);
  for (float& weight : weights) {
    const float level = std::round((std::fabs(weight) - 1.2816f) * 8.0f) + 1.0f;
    weight = std::fabs(weight) < 1.2816f
                 ? 0.0f
                 : std::copysign(0.7f + 0.113f * std::fmin(level, 16.0f), weight);
  }
  return weights;
}

}  // namespace

int main(int argc, char** argv) {
  namespace bench = moptcore::bench;
  namespace pack = moptcore::pack;
  constexpr std::int64_t kElements = 512 * 512 * 9;
  const std::vector<float> weights = clustered(kElements);
  std::vector<std::int8_t> integers(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    integers[i] = static_cast<std::int8_t>(std::lround(weights[i] / 0.113f));
  }
  std::vector<float> floats_back(weights.size());
  std::vector<std::int8_t> integers_back(weights.size());
  for (const char* name : {"auto", "bitmap+codebook+rans", "dense+codebook+rans"}) {
    const auto encoding = pack::parse_encoding(name);
    const auto floats = pack::encode(weights, encoding);
    const auto bytes = pack::encode(integers, encoding);
    pack::decode(floats, floats_back);
    pack::decode(bytes, integers_back);
    if (std::memcmp(floats_back.data(), weights.data(), weights.size() * 4) != 0 ||
        integers_back != integers) {
      std::fprintf(stderr, "%s does not come back\n", name);
      return 1;
    }
    bench::on_every_isa(std::string("decode float32/") + name, kElements,
                        [=, &floats_back] { pack::decode(floats, floats_back); });
    bench::on_every_isa(std::string("decode int8/") + name, kElements,
                        [=, &integers_back] { pack::decode(bytes, integers_back); });
    bench::on_every_isa(std::string("encode float32/") + name, kElements, [=, &weights] {
      benchmark::DoNotOptimize(pack::encode(weights, encoding).data());
    });
  }
  bench::on_every_isa("crc32", kElements, [&integers] {
    const std::span bytes(reinterpret_cast<const std::uint8_t*>(integers.data()), integers.size());
    benchmark::DoNotOptimize(pack::crc32(bytes));
  });
  return bench::run(argc, argv);
}
