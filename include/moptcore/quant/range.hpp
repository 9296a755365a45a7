// SPDX-License-Identifier: Apache-2.0
// From the range of real numbers to the grid that covers it, and the observers that find ranges.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/qparams.hpp>
#include <moptcore/core/shape.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/quant/compat.hpp>

namespace moptcore::inline v0::quant {

/// The smallest scale that a range gives: 2^-126, so that no scale is denormal.
inline constexpr float kMinScale = std::numeric_limits<float>::min();

/// torch.ao's smallest scale.
inline constexpr float kTorchMinScale = std::numeric_limits<float>::epsilon();

/// The integers that a grid of `type` uses: all of them, but for symmetric grids one less below
/// where they do not lie evenly around the zero point anyway (int8: [-127, 127], uint8: [1, 255],
/// int3: [-3, 3], int2 and ternary: [-1, 1]). Compat::torch uses all of them always.
[[nodiscard]] constexpr std::pair<std::int32_t, std::int32_t> grid_range(
    const GridType& type, bool symmetric, Compat compat = Compat::none) noexcept {
  const auto [least, greatest] = integer_range(type);
  const bool narrows = symmetric && compat != Compat::torch && least != -greatest;
  return {narrows ? least + 1 : least, greatest};
}

namespace detail {

template <class T>
[[nodiscard]] std::int32_t zero_point_at(T whole, std::int32_t qmin, std::int32_t qmax) noexcept {
  return static_cast<std::int32_t>(std::clamp(whole, static_cast<T>(qmin), static_cast<T>(qmax)));
}

}  // namespace detail

/// The grid for values in [min, max], which is first extended to hold 0.
///   symmetric: scale = max(-min, max) / ((qmax - qmin) / 2), zero_point = the middle
///   affine:    scale = (max - min) / (qmax - qmin), zero_point = rint(qmin - min / scale)
/// computed in double, the scale rounded to float before the zero point is chosen. Scales are at
/// least kMinScale; a range of nothing but 0 gives scale 1.
/// Compat::torch: torch.ao's observers (symmetric int8 divides by 127.5, float arithmetic, scale
/// at least 2^-23). Compat::tflite: affine in float arithmetic, zero_point rounds halves away.
/// min and max must be finite with min <= max; see qparams_from_range for the checks.
[[nodiscard]] inline Grid grid_from_range(float min, float max, const GridType& type,
                                          bool symmetric, Compat compat = Compat::none) noexcept {
  const auto [qmin, qmax] = grid_range(type, symmetric, compat);
  const std::int32_t middle = integer_range(type).first < 0 ? 0 : (qmax + 1) / 2;
  const float low = std::min(min, 0.0f);
  const float high = std::max(max, 0.0f);
  const auto levels = static_cast<float>(qmax - qmin);
  if (compat == Compat::torch) {
    if (symmetric) {
      const float scale = std::max(std::max(-low, high) / (levels / 2.0f), kTorchMinScale);
      return {scale, middle, qmin, qmax};
    }
    const float scale = std::max((high - low) / levels, kTorchMinScale);
    return {scale, detail::zero_point_at(qmin - std::nearbyint(low / scale), qmin, qmax), qmin,
            qmax};
  }
  if (low == high) {
    const std::int32_t zero = symmetric ? middle : std::clamp(0, qmin, qmax);
    return {1.0f, zero, qmin, qmax};
  }
  if (symmetric) {
    const double bound = std::max(-static_cast<double>(low), static_cast<double>(high));
    return {std::max(static_cast<float>(bound / (levels / 2.0)), kMinScale), middle, qmin, qmax};
  }
  if (compat == Compat::tflite) {
    const float scale = std::max((high - low) / levels, kMinScale);
    return {scale, detail::zero_point_at(std::round(qmin - low / scale), qmin, qmax), qmin, qmax};
  }
  const double width = static_cast<double>(high) - static_cast<double>(low);
  const float scale = std::max(static_cast<float>(width / levels), kMinScale);
  const double zero = qmin - static_cast<double>(low) / static_cast<double>(scale);
  return {scale, detail::zero_point_at(std::nearbyint(zero), qmin, qmax), qmin, qmax};
}

/// QParams for one range, or for one range per index of `axis`. Throws Error where a range is not
/// finite or min > max, or where min and max differ in length.
[[nodiscard]] MOPTCORE_API QParams qparams_from_range(std::span<const float> min,
                                                      std::span<const float> max,
                                                      const GridType& type, bool symmetric,
                                                      std::optional<std::int64_t> axis,
                                                      Compat compat = Compat::none);

/// The same for ranges of groups, row-major in `shape` (see group_range).
[[nodiscard]] MOPTCORE_API QParams qparams_from_range(
    std::span<const float> min, std::span<const float> max, const GridType& type, bool symmetric,
    std::int64_t axis, std::int64_t group_size, const Shape& shape, Compat compat = Compat::none);

/// What an observer does with NaN and infinities.
enum class OnNonFinite : std::uint8_t {
  error,  ///< throws NonFiniteError; the observer is unchanged
  skip,   ///< observes the finite values only
};

/// Smallest and largest values of groups, row-major in `shape`.
struct GroupRange {
  std::vector<float> min;
  std::vector<float> max;
  Shape shape;
};

/// The range of each `group_size` neighbours along `axis` of `x` (any floating dtype and strides),
/// in float32: ONNX's blocks, of which each index of the other axes has its own. The last group
/// along the axis may be incomplete. Throws Error, DTypeError, or NonFiniteError where a value is
/// NaN or infinite.
[[nodiscard]] MOPTCORE_API GroupRange group_range(const AnyView& x, std::int64_t group_size,
                                                  std::int64_t axis = -1);

/// The range of the values seen so far: of all of them, or for each index of an axis. Ranges are
/// kept as float32. Not thread-safe.
class MOPTCORE_API RangeObserver {
 public:
  /// Widens or moves the range. `x` has any floating dtype and strides and at least one element;
  /// with an axis its extent stays what it was in the first call.
  void update(const AnyView& x, OnNonFinite nonfinite = OnNonFinite::error);

  /// The grid for the range. Throws Error where nothing was observed, of the whole or of a channel.
  [[nodiscard]] QParams qparams(const GridType& type = DType::int8, bool symmetric = true,
                                Compat compat = Compat::none) const;

  /// One value, or one for each index of the axis; empty before the first update. A channel that
  /// has seen no finite value has min > max.
  [[nodiscard]] const std::vector<float>& min() const noexcept { return min_; }
  [[nodiscard]] const std::vector<float>& max() const noexcept { return max_; }
  [[nodiscard]] const std::optional<std::int64_t>& axis() const noexcept { return axis_; }

  /// Forgets everything seen.
  void reset() noexcept;

  friend bool operator==(const RangeObserver&, const RangeObserver&) = default;

 protected:
  RangeObserver(std::optional<std::int64_t> axis, std::optional<double> momentum);
  void assign(std::vector<float> min, std::vector<float> max, std::vector<std::int64_t> count);
  void check_merge(const RangeObserver& other, const char* where) const;

  std::optional<double> momentum_;
  std::vector<float> min_;
  std::vector<float> max_;
  std::vector<std::int64_t> count_;  // of a mean only

 private:
  std::optional<std::int64_t> axis_;
};

/// Smallest and largest value of all updates.
class MOPTCORE_API MinMaxObserver : public RangeObserver {
 public:
  explicit MinMaxObserver(std::optional<std::int64_t> axis = std::nullopt);

  /// Continues from a range that min() and max() gave. Throws FormatError where lengths differ, a
  /// value is not finite or min > max, but for a channel that has seen no finite value.
  void restore(std::vector<float> min, std::vector<float> max);

  /// As if this observer had also seen what `other` saw. Throws Error where axes or extents
  /// differ.
  void merge(const MinMaxObserver& other);
};

/// Exponential mean of each update's smallest and largest value:
///   min += momentum * (min(x) - min),  max likewise, in float; the first update sets both.
class MOPTCORE_API MovingAverageObserver : public RangeObserver {
 public:
  /// momentum in (0, 1].
  explicit MovingAverageObserver(double momentum = 0.01,
                                 std::optional<std::int64_t> axis = std::nullopt);

  [[nodiscard]] double momentum() const noexcept { return *momentum_; }

  /// Updates that moved min() and max(): one number, or one for each index of the axis.
  [[nodiscard]] const std::vector<std::int64_t>& count() const noexcept { return count_; }

  /// As MinMaxObserver::restore; a count is 0 exactly where a channel has seen no finite value.
  void restore(std::vector<float> min, std::vector<float> max, std::vector<std::int64_t> count);

  /// The mean of both ranges, weighted by their counts and computed in double; the counts add up.
  /// Associative and commutative but for rounding. It is not what one observer would have found
  /// that saw both sequences: the order of the updates is lost. Throws Error where axes, extents
  /// or momenta differ.
  void merge(const MovingAverageObserver& other);
};

}  // namespace moptcore::inline v0::quant
