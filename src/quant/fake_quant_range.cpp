// SPDX-License-Identifier: Apache-2.0
#include <moptcore/quant/fake_quant_range.hpp>

#include <vector>

#include "kernels/fake_quant_range.hpp"
#include "kernels/float_mode.hpp"
#include "quant/grids.hpp"
#include "quant/transform.hpp"

namespace moptcore::inline v0::quant {
namespace {

constexpr auto where = "quant.fake_quantize_range";

std::vector<kernels::GridStep<float>> steps_of(std::span<const float> min,
                                               std::span<const float> max,
                                               const RangeOptions& options) {
  const kernels::FloatMode mode;
  std::vector<kernels::GridStep<float>> steps;
  steps.reserve(min.size());
  for (std::size_t c = 0; c < min.size(); ++c) {
    const bool zero = min[c] == 0.0f && max[c] == 0.0f;
    const bool finite = std::isfinite(min[c]) && std::isfinite(max[c]);
    const NudgedRange r = finite
                              ? nudge_range(min[c], max[c], options.num_bits, options.narrow_range)
                              : NudgedRange();
    const bool normal = finite && min[c] < max[c] && std::isfinite(r.scale) && r.scale > 0.0f &&
                        std::isfinite(r.inverse);
    check(zero || normal, where, "min and max must be finite with min < max, or both 0",
          std::to_string(min[c]) + " and " + std::to_string(max[c]));
    // With a scale of 0 the other numbers only have to be harmless.
    const float factor = zero ? 1.0f : options.axis ? r.inverse : r.scale;
    steps.push_back({factor, r.scale, r.min, r.max, r.zero});
  }
  return steps;
}

GridSteps<float> grids_of(std::vector<kernels::GridStep<float>> steps, const Shape& shape,
                          const RangeOptions& options) {
  if (!options.axis) return GridSteps<float>(steps.front());
  return {std::move(steps), *options.axis, shape, where, "min"};
}

template <class... Args>
void run(const float* src, Args&&... args) noexcept {
  kernels::fake_quant_range_f32(src, args...);
}

template <class... Args>
void run(const float16* src, Args&&... args) noexcept {
  kernels::fake_quant_range_f16(src, args...);
}

template <class... Args>
void run(const bfloat16* src, Args&&... args) noexcept {
  kernels::fake_quant_range_bf16(src, args...);
}

}  // namespace

void fake_quantize_range(const AnyView& src, std::span<const float> min, std::span<const float> max,
                         const MutableAnyView& dst, const RangeOptions& options,
                         std::span<std::uint8_t> bits) {
  check_same(src, dst, where, "x");
  check<DTypeError>(src.dtype() != DType::float64, where, "x must be float32, float16 or bfloat16",
                    name(src.dtype()));
  check(options.num_bits >= 2 && options.num_bits <= 16, where, "num_bits must be in [2, 16]",
        options.num_bits);
  check(options.axis.has_value() || min.size() == 1, where,
        "min must be one number where axis is None", min.size());
  check(min.size() == max.size(), where, "max must have as many elements as min", max.size());
  if (!bits.empty()) {
    check_bits(bits, src, where);
    check_bits(bits, dst, where);
  }
  const auto steps = grids_of(steps_of(min, max, options), src.shape(), options);
  const bool multiply = options.axis.has_value();
  transform(src, dst, bits, steps,
            [multiply]<class S>(const S* from, std::int64_t n, const auto& grid, S* to,
                                std::uint8_t* to_bits, bool stream) {
              run(from, n, grid, multiply, to, to_bits, stream);
            });
}

}  // namespace moptcore::inline v0::quant
