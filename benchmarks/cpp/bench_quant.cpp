// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/quant.hpp>

#include <string>

#include "isas.hpp"

namespace {

namespace bench = moptcore::bench;
namespace quant = moptcore::quant;

constexpr std::int64_t kSize = 1 << 20;

template <class T>
void floats(const std::string& dtype) {
  std::vector<T> x;
  for (const float value : bench::normal_numbers(kSize)) x.push_back(static_cast<T>(value));
  std::vector<T> y(x.size());
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(quant::bit_bytes(kSize)));
  const std::vector<float> scale(1, 0.02f);
  std::vector<float> scale_grad(1);
  const moptcore::QParams params(0.02f);

  bench::on_every_isa("fake_quantize_forward_" + dtype, kSize,
                      [=]() mutable { quant::fake_quantize(x, params.view(), y); });
  bench::on_every_isa("fake_quantize_" + dtype, kSize,
                      [=]() mutable { quant::fake_quantize(x, params.view(), y, bits); });
  bench::on_every_isa("fake_quantize_backward_" + dtype, kSize,
                      [=]() mutable { quant::fake_quantize_backward(x, bits, y); });
  bench::on_every_isa("lsq_backward_" + dtype, kSize, [=]() mutable {
    quant::lsq_backward(x, x, scale, std::nullopt, y, scale_grad, std::nullopt);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const auto x = bench::normal_numbers(kSize);
  std::vector<float> y(x.size());
  std::vector<std::int8_t> q(x.size());
  const moptcore::QParams params(0.02f);

  floats<float>("float32");
  floats<moptcore::bfloat16>("bfloat16");
  floats<moptcore::float16>("float16");
  bench::on_every_isa("quantize", kSize, [&] { quant::quantize(x, params, q); });
  bench::on_every_isa("dequantize", kSize, [&] { quant::dequantize(q, params, y); });
  return bench::run(argc, argv);
}
