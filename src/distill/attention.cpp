// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/attention.hpp>

#include "distill/dense.hpp"

namespace moptcore::inline v0::distill {
namespace {

constexpr auto kWhere = "distill.attention_loss";

// |x|^p for 0 <= x <= 1, and p |x|^(p - 1).
double raised(double x, double power) {
  if (power == 2.0) return x * x;
  return power == 1.0 ? x : std::pow(x, power);
}

double slope(double x, double power) {
  if (power == 2.0) return 2.0 * x;
  return power == 1.0 ? 1.0 : power * std::pow(x, power - 1.0);
}

// One network's features of one sample and the map that they make.
class Attention {
 public:
  Attention(const AnyView& view, std::int64_t positions, std::int64_t channels)
      : view_(view),
        positions_(positions),
        channels_(channels),
        features_(static_cast<std::size_t>(positions * channels)),
        map_(static_cast<std::size_t>(positions)) {}

  void look(std::int64_t sample, const std::uint8_t* kept, double power) {
    for (std::int64_t x = 0; x < positions_; ++x) {
      double* const at = features_.data() + x * channels_;
      if (kept != nullptr && kept[x] == 0) std::fill_n(at, channels_, 0.0);
      else kernels::load(view_, (sample * positions_ + x) * channels_, channels_, at);
    }
    factor_ = to_unit(features_.data(), positions_ * channels_);
    double squares = 0.0;
    for (std::int64_t x = 0; x < positions_; ++x) {
      double sum = 0.0;
      for (std::int64_t c = 0; c < channels_; ++c) {
        sum += raised(std::abs(features_[static_cast<std::size_t>(x * channels_ + c)]), power);
      }
      map_[static_cast<std::size_t>(x)] = sum;
      squares += sum * sum;
    }
    norm_ = std::sqrt(squares);
    if (norm_ == 0.0) return;
    for (double& value : map_) value /= norm_;
  }

  [[nodiscard]] const std::vector<double>& map() const noexcept { return map_; }

  // Turns the features into the gradient by them, given that by the map.
  const double* back(const std::vector<double>& by_map, double power) {
    double along = 0.0;
    for (std::size_t x = 0; x < map_.size(); ++x) along += by_map[x] * map_[x];
    for (std::int64_t x = 0; x < positions_; ++x) {
      const auto at = static_cast<std::size_t>(x);
      const double by_sum = norm_ == 0.0 ? 0.0 : (by_map[at] - along * map_[at]) / norm_ * factor_;
      for (std::int64_t c = 0; c < channels_; ++c) {
        double& f = features_[static_cast<std::size_t>(x * channels_ + c)];
        const double sign = f > 0.0 ? 1.0 : (f < 0.0 ? -1.0 : f);
        f = by_sum * slope(std::abs(f), power) * sign;
      }
    }
    return features_.data();
  }

 private:
  AnyView view_;
  std::int64_t positions_;
  std::int64_t channels_;
  std::vector<double> features_;
  std::vector<double> map_;
  double factor_ = 1.0;
  double norm_ = 0.0;
};

}  // namespace

double attention_loss(const AnyView& student, const AnyView& teacher,
                      const AttentionOptions& options, const std::optional<AnyView>& mask,
                      const MutableAnyView& grad) {
  check_pair(student, teacher, grad, kWhere);
  check(options.power >= 1.0 && std::isfinite(options.power), kWhere, "p must be >= 1 and finite",
        options.power);
  check(student.rank() >= 2, kWhere, "student must have samples and channels", student.shape());
  const int axis = normalize_axis(options.axis, student.rank(), kWhere);
  check(axis != 0, kWhere, "axis must not be 0, the samples", options.axis);
  const Shape rows = without_axis(student.shape(), axis);
  check(teacher.rank() == student.rank() && without_axis(teacher.shape(), axis) == rows, kWhere,
        "teacher must have the student's shape but for its channels, " + shape_text(rows) +
            " without axis " + std::to_string(axis),
        teacher.shape());
  std::vector<std::uint8_t> kept;
  std::int64_t counted = element_count(rows);
  if (mask) {
    kept = mask_values(*mask, rows, kWhere);
    counted = std::count_if(kept.begin(), kept.end(), [](std::uint8_t k) { return k != 0; });
  }
  const std::int64_t samples = rows[0];
  const std::int64_t positions = samples == 0 ? 0 : element_count(rows) / samples;
  const std::int64_t channels = student.shape()[axis];
  const AnyView student_rows = axis_last(student, axis);
  const AnyView teacher_rows = axis_last(teacher, axis);
  const MutableAnyView grad_rows = axis_last(grad, axis);
  const double divisor = counted == 0 ? 1.0 : static_cast<double>(counted);
  std::vector<double> sums(static_cast<std::size_t>(samples));
  const std::int64_t grain = rows_a_block(positions * channels);
  parallel_for(samples, grain, [&](std::int64_t first, std::int64_t last) {
    Attention s(student_rows, positions, channels);
    Attention t(teacher_rows, positions, teacher.shape()[axis]);
    std::vector<double> by_map(static_cast<std::size_t>(positions));
    for (std::int64_t sample = first; sample < last; ++sample) {
      const std::uint8_t* const keep = mask ? kept.data() + sample * positions : nullptr;
      s.look(sample, keep, options.power);
      t.look(sample, keep, options.power);
      double sum = 0.0;
      for (std::size_t x = 0; x < by_map.size(); ++x) {
        const double difference = s.map()[x] - t.map()[x];
        sum += difference * difference;
        by_map[x] = 2.0 * difference / divisor;
      }
      sums[static_cast<std::size_t>(sample)] = sum;
      kernels::store(s.back(by_map, options.power), sample * positions * channels,
                     positions * channels, grad_rows);
    }
  });
  return sum_of(sums) / divisor;
}

}  // namespace moptcore::inline v0::distill
