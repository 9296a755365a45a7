// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/relational.hpp>

#include "distill/dense.hpp"

namespace moptcore::inline v0::distill {
namespace {

constexpr auto kWhere = "distill.relational_loss";

double huber(double x) {
  const double size = std::abs(x);
  return size < 1.0 ? 0.5 * x * x : size - 0.5;
}

double huber_slope(double x) {
  if (x > 1.0) return 1.0;
  return x < -1.0 ? -1.0 : x;
}

// Eight sums at once, which do not wait for each other. Products would be faster still, but lose
// the distance of samples that lie close together far from 0.
double squared_distance(const double* x, const double* y, std::int64_t width) {
  constexpr std::int64_t kSums = 8;
  double sums[kSums] = {};
  std::int64_t k = 0;
  for (; k + kSums <= width; k += kSums) {
    for (std::int64_t lane = 0; lane < kSums; ++lane) {
      const double difference = x[k + lane] - y[k + lane];
      sums[lane] += difference * difference;
    }
  }
  double sum =
      ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  for (; k < width; ++k) sum += (x[k] - y[k]) * (x[k] - y[k]);
  return sum;
}

// The samples of one network and all their distances.
struct Samples {
  Samples(const AnyView& view, std::int64_t samples)
      : n(samples), width(samples == 0 ? 0 : view.size() / samples), values(load_all(view)) {
    factor = to_unit(values.data(), view.size());
    squared.resize(static_cast<std::size_t>(n * n));
    distance.resize(squared.size());
    inverse.resize(squared.size());
    parallel_for(n, rows_a_block(n * width), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) measure(i);
    });
    double sum = 0.0;
    for (const double d : distance) {
      sum += d;
      if (d != 0.0) ++pairs;
    }
    mean_inverse = pairs == 0 ? 0.0 : static_cast<double>(pairs) / sum;
  }

  void measure(std::int64_t i) {
    const double* const x = values.data() + i * width;
    for (std::int64_t j = 0; j < n; ++j) {
      const double sum = squared_distance(x, values.data() + j * width, width);
      const auto at = static_cast<std::size_t>(i * n + j);
      squared[at] = sum;
      distance[at] = std::sqrt(sum);
      inverse[at] = sum == 0.0 ? 0.0 : 1.0 / distance[at];
    }
  }

  // The cosine at sample i between j and k: 0 where a side has no length.
  [[nodiscard]] double cosine(std::int64_t i, std::int64_t j, std::int64_t k) const {
    const double* const s = squared.data() + i * n;
    const double* const r = inverse.data() + i * n;
    return 0.5 * (s[j] + s[k] - squared[static_cast<std::size_t>(j * n + k)]) * r[j] * r[k];
  }

  std::int64_t n;
  std::int64_t width;
  std::vector<double> values;
  double factor = 1.0;
  std::vector<double> squared;
  std::vector<double> distance;
  std::vector<double> inverse;
  std::int64_t pairs = 0;
  double mean_inverse = 0.0;
};

class Relations {
 public:
  Relations(const Samples& student, const Samples& teacher)
      : s_(student), t_(teacher), n_(student.n), by_distance_(student.squared.size()) {}

  double distances(double weight) {
    double loss = 0.0;
    double along = 0.0;
    const double scale = weight / static_cast<double>(n_ * n_);
    for (std::size_t at = 0; at < by_distance_.size(); ++at) {
      const double difference =
          s_.distance[at] * s_.mean_inverse - t_.distance[at] * t_.mean_inverse;
      loss += huber(difference);
      by_distance_[at] = scale * huber_slope(difference) * s_.mean_inverse;
      along += by_distance_[at] * s_.distance[at];
    }
    // What the mean distance, by which all are divided, does.
    const double mean =
        s_.pairs == 0 ? 0.0 : along * s_.mean_inverse / static_cast<double>(s_.pairs);
    for (std::size_t at = 0; at < by_distance_.size(); ++at) {
      if (s_.distance[at] != 0.0) by_distance_[at] -= mean;
    }
    return loss * scale;
  }

  double angles(double weight) {
    const double scale = weight / static_cast<double>(n_ * n_ * n_);
    by_base_.resize(by_distance_.size());
    std::vector<double> losses(static_cast<std::size_t>(n_));
    parallel_for(n_, rows_a_block(2 * n_ * n_), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        losses[static_cast<std::size_t>(i)] = corner(i, scale);
        base(i, scale);
      }
    });
    return sum_of(losses) * scale;
  }

  void store(const MutableAnyView& grad) const {
    std::vector<double> values(s_.values.size());
    parallel_for(n_, rows_a_block(n_ * s_.width), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) step(i, values.data() + i * s_.width);
    });
    store_all(values, grad);
  }

 private:
  // The angles at sample i, and what they do to the sides that meet there.
  double corner(std::int64_t i, double scale) {
    const double* const r = s_.inverse.data() + i * n_;
    double loss = 0.0;
    for (std::int64_t j = 0; j < n_; ++j) {
      double slope = 0.0;
      for (std::int64_t k = 0; k < n_; ++k) {
        const double cosine = s_.cosine(i, j, k);
        const double difference = cosine - t_.cosine(i, j, k);
        loss += huber(difference);
        slope += huber_slope(difference) * (r[k] - cosine * r[j]);
      }
      // Each side is the first of its angles and the second of as many.
      by_distance_[static_cast<std::size_t>(i * n_ + j)] += 2.0 * scale * slope;
    }
    return loss;
  }

  // What all angles do to the sides between sample j and the others, which lie opposite.
  void base(std::int64_t j, double scale) {
    double* const by = by_base_.data() + j * n_;
    for (std::int64_t i = 0; i < n_; ++i) {
      const double* const r = s_.inverse.data() + i * n_;
      for (std::int64_t k = 0; k < n_; ++k) {
        const double difference = s_.cosine(i, j, k) - t_.cosine(i, j, k);
        by[k] -= 0.5 * scale * huber_slope(difference) * r[j] * r[k];
      }
    }
  }

  void step(std::int64_t i, double* grad) const {
    const double* const x = s_.values.data() + i * s_.width;
    for (std::int64_t j = 0; j < n_; ++j) {
      const auto to = static_cast<std::size_t>(i * n_ + j);
      const auto from = static_cast<std::size_t>(j * n_ + i);
      double by_square = 0.5 * s_.inverse[to] * (by_distance_[to] + by_distance_[from]);
      if (!by_base_.empty()) by_square += by_base_[to] + by_base_[from];
      const double* const y = s_.values.data() + j * s_.width;
      for (std::int64_t k = 0; k < s_.width; ++k) {
        grad[k] += 2.0 * by_square * (x[k] - y[k]) * s_.factor;
      }
    }
  }

  const Samples& s_;
  const Samples& t_;
  std::int64_t n_;
  std::vector<double> by_distance_;  // d loss / d d_ij, each order of i and j for itself
  std::vector<double> by_base_;      // d loss / d d_jk^2 of the angles opposite
};

}  // namespace

double relational_loss(const AnyView& student, const AnyView& teacher,
                       const RelationalOptions& options, const std::optional<AnyView>& mask,
                       const MutableAnyView& grad) {
  check_pair(student, teacher, grad, kWhere);
  check_same_samples(student, teacher, kWhere);
  check_weight(options.distance, "distance", kWhere);
  check_weight(options.angle, "angle", kWhere);
  if (mask) {
    const KeptRows rows(*mask, Shape{student.shape()[0]}, kWhere);
    auto s = rows.pack(student);
    auto t = rows.pack(teacher);
    auto g = rows.empty(grad);
    const double loss = relational_loss(s.view(), t.view(), options, std::nullopt, g.view());
    rows.spread(g, grad);
    return loss;
  }
  const std::int64_t n = student.shape()[0];
  if (n == 0) return 0.0;
  const Samples s(student, n);
  const Samples t(teacher, n);
  Relations relations(s, t);
  double loss = 0.0;
  if (options.distance > 0.0) loss += relations.distances(options.distance);
  if (options.angle > 0.0) loss += relations.angles(options.angle);
  relations.store(grad);
  return loss;
}

}  // namespace moptcore::inline v0::distill
