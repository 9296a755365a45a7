// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/quant.hpp>

#include "isas.hpp"

int main(int argc, char** argv) {
  namespace bench = moptcore::bench;
  namespace quant = moptcore::quant;
  constexpr std::int64_t kSize = 1 << 20;
  const auto x = bench::normal_numbers(kSize);
  std::vector<float> y(x.size());
  std::vector<std::int8_t> q(x.size());
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(kSize)));
  const moptcore::QParams params(0.02f);

  bench::on_every_isa("fake_quantize", kSize,
                      [&] { quant::fake_quantize(x, params.view(), y, bits); });
  bench::on_every_isa("fake_quantize_backward", kSize,
                      [&] { quant::fake_quantize_backward(x, bits, y); });
  bench::on_every_isa("quantize", kSize, [&] { quant::quantize(x, params, q); });
  bench::on_every_isa("dequantize", kSize, [&] { quant::dequantize(q, params, y); });
  return bench::run(argc, argv);
}
