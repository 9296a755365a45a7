// SPDX-License-Identifier: Apache-2.0
// How sparse a weight should be at each training step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <string>
#include <utility>

#include <moptcore/core/check.hpp>

namespace moptcore::inline v0::prune {

using Step = std::int64_t;

/// False for NaN, as every comparison with NaN is.
[[nodiscard]] constexpr bool is_sparsity(double s) noexcept { return s >= 0.0 && s < 1.0; }

namespace detail {

// Steps at which masks are made anew: begin, begin + frequency, ..., and end in any case.
[[nodiscard]] constexpr bool is_update(Step step, Step begin, Step end, Step frequency) noexcept {
  if (step < begin || step > end) return false;
  return step == end || (step - begin) % frequency == 0;
}

template <class Options>
constexpr void check_decay(const Options& o, const char* where) {
  check(is_sparsity(o.initial_sparsity), where, "initial_sparsity must be in [0, 1)",
        o.initial_sparsity);
  check(is_sparsity(o.final_sparsity), where, "final_sparsity must be in [0, 1)", o.final_sparsity);
  check(o.begin_step >= 0, where, "begin_step must be >= 0", o.begin_step);
  check(o.end_step > o.begin_step, where,
        "end_step must be > begin_step (" + std::to_string(o.begin_step) + ")", o.end_step);
  check(o.frequency >= 1, where, "frequency must be >= 1", o.frequency);
}

// initial up to begin, final from end on, and between them final + (initial - final) * left(t)
// with t running from 0 to 1.
template <class Options, class Left>
[[nodiscard]] double decayed(const Options& o, Step step, Left&& left) noexcept {
  if (step <= o.begin_step) return o.initial_sparsity;
  if (step >= o.end_step) return o.final_sparsity;
  const double t =
      static_cast<double>(step - o.begin_step) / static_cast<double>(o.end_step - o.begin_step);
  return o.final_sparsity + (o.initial_sparsity - o.final_sparsity) * left(t);
}

}  // namespace detail

/// The same sparsity at every step. With end_step = -1 masks are updated for ever.
class ConstantSparsity {
 public:
  struct Options {
    double target_sparsity = 0.5;  ///< in [0, 1)
    Step begin_step = 0;           ///< >= 0
    Step end_step = -1;            ///< >= begin_step, or -1
    Step frequency = 100;          ///< >= 1

    bool operator==(const Options&) const = default;
  };

  /// Throws Error naming the first option out of range.
  explicit ConstantSparsity(const Options& options) : options_(options) {
    const auto& o = options_;
    constexpr auto where = "prune.ConstantSparsity";
    check(is_sparsity(o.target_sparsity), where, "target_sparsity must be in [0, 1)",
          o.target_sparsity);
    check(o.begin_step >= 0, where, "begin_step must be >= 0", o.begin_step);
    check(o.end_step == -1 || o.end_step >= o.begin_step, where,
          "end_step must be -1 or >= begin_step (" + std::to_string(o.begin_step) + ")",
          o.end_step);
    check(o.frequency >= 1, where, "frequency must be >= 1", o.frequency);
  }

  [[nodiscard]] double sparsity(Step) const noexcept { return options_.target_sparsity; }

  /// True on begin_step, begin_step + frequency, ..., and always on end_step.
  [[nodiscard]] bool should_prune(Step step) const noexcept {
    const auto& o = options_;
    if (o.end_step >= 0) return detail::is_update(step, o.begin_step, o.end_step, o.frequency);
    return step >= o.begin_step && (step - o.begin_step) % o.frequency == 0;
  }

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  bool operator==(const ConstantSparsity&) const = default;

 private:
  Options options_;
};

/// Sparsity going from `initial_sparsity` to `final_sparsity` along
///   s(t) = final + (initial - final) * (1 - t)^power,
///   t    = (step - begin_step) / (end_step - begin_step), clamped to [0, 1].
/// Zhu and Gupta, arXiv:1710.01878.
class PolynomialDecay {
 public:
  struct Options {
    double initial_sparsity = 0.0;  ///< in [0, 1)
    double final_sparsity = 0.5;    ///< in [0, 1); may lie below initial_sparsity
    Step begin_step = 0;            ///< >= 0
    Step end_step = 1000;           ///< > begin_step
    double power = 3.0;             ///< finite, > 0; a larger power prunes earlier
    Step frequency = 100;           ///< >= 1

    bool operator==(const Options&) const = default;
  };

  /// Throws Error naming the first option out of range.
  explicit PolynomialDecay(const Options& options) : options_(options) {
    constexpr auto where = "prune.PolynomialDecay";
    detail::check_decay(options_, where);
    check(std::isfinite(options_.power) && options_.power > 0.0, where,
          "power must be finite and > 0", options_.power);
  }

  [[nodiscard]] double sparsity(Step step) const noexcept {
    return detail::decayed(options_, step,
                           [this](double t) { return std::pow(1.0 - t, options_.power); });
  }

  /// True on begin_step, begin_step + frequency, ..., and always on end_step.
  [[nodiscard]] bool should_prune(Step step) const noexcept {
    const auto& o = options_;
    return detail::is_update(step, o.begin_step, o.end_step, o.frequency);
  }

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  bool operator==(const PolynomialDecay&) const = default;

 private:
  Options options_;
};

namespace detail {

/// Options of the decays that have no shape of their own to choose.
struct DecayOptions {
  double initial_sparsity = 0.0;  ///< in [0, 1)
  double final_sparsity = 0.5;    ///< in [0, 1); may lie below initial_sparsity
  Step begin_step = 0;            ///< >= 0
  Step end_step = 1000;           ///< > begin_step
  Step frequency = 100;           ///< >= 1

  bool operator==(const DecayOptions&) const = default;
};

// A decay whose shape is a stateless `Curve`: name, and left(t) from 1 at t = 0 to 0 at t = 1.
template <class Curve>
class Decay {
 public:
  using Options = DecayOptions;

  /// Throws Error naming the first option out of range.
  explicit Decay(const Options& options) : options_(options) {
    check_decay(options_, Curve::kName);
  }

  [[nodiscard]] double sparsity(Step step) const noexcept {
    return decayed(options_, step, Curve::left);
  }

  /// True on begin_step, begin_step + frequency, ..., and always on end_step.
  [[nodiscard]] bool should_prune(Step step) const noexcept {
    return is_update(step, options_.begin_step, options_.end_step, options_.frequency);
  }

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  bool operator==(const Decay&) const = default;

 private:
  Options options_;
};

struct LinearCurve {
  static constexpr auto kName = "prune.LinearDecay";
  static double left(double t) noexcept { return 1.0 - t; }
};

struct CosineCurve {
  static constexpr auto kName = "prune.CosineDecay";
  static double left(double t) noexcept { return 0.5 * (1.0 + std::cos(std::numbers::pi * t)); }
};

struct ExponentialCurve {
  static constexpr auto kName = "prune.ExponentialDecay";
  static double left(double t) noexcept {
    const double rest = std::exp(-5.0);
    return (std::exp(-5.0 * t) - rest) / (1.0 - rest);
  }
};

}  // namespace detail

/// s(t) = final + (initial - final) * (1 - t), with t as in PolynomialDecay.
class LinearDecay : public detail::Decay<detail::LinearCurve> {
 public:
  using Decay::Decay;
};

/// s(t) = final + (initial - final) * (1 + cos(pi t)) / 2: slow at both ends.
class CosineDecay : public detail::Decay<detail::CosineCurve> {
 public:
  using Decay::Decay;
};

/// s(t) = final + (initial - final) * (e^(-5t) - e^-5) / (1 - e^-5): most pruning at the start.
class ExponentialDecay : public detail::Decay<detail::ExponentialCurve> {
 public:
  using Decay::Decay;
};

/// The sparsity that a function of yours gives for a step. Steps before begin_step count as
/// begin_step, those after end_step as end_step; with end_step = -1 masks are updated for ever.
class FunctionSchedule {
 public:
  struct Options {
    std::function<double(Step)> function;  ///< returns a sparsity in [0, 1)
    Step begin_step = 0;                   ///< >= 0
    Step end_step = -1;                    ///< >= begin_step, or -1
    Step frequency = 100;                  ///< >= 1
  };

  /// Throws Error naming the first option out of range.
  explicit FunctionSchedule(Options options) : options_(std::move(options)) {
    const auto& o = options_;
    check(static_cast<bool>(o.function), kName, "function must not be empty");
    check(o.begin_step >= 0, kName, "begin_step must be >= 0", o.begin_step);
    check(o.end_step == -1 || o.end_step >= o.begin_step, kName,
          "end_step must be -1 or >= begin_step (" + std::to_string(o.begin_step) + ")",
          o.end_step);
    check(o.frequency >= 1, kName, "frequency must be >= 1", o.frequency);
  }

  /// Throws Error where the function returns something else than a sparsity.
  [[nodiscard]] double sparsity(Step step) const {
    const auto& o = options_;
    const Step at = std::max(o.end_step >= 0 ? std::min(step, o.end_step) : step, o.begin_step);
    const double result = o.function(at);
    if (!is_sparsity(result)) {
      throw Error(error_text(
          kName, "function must return a sparsity in [0, 1) at step " + std::to_string(at),
          result));
    }
    return result;
  }

  /// True on begin_step, begin_step + frequency, ..., and always on end_step.
  [[nodiscard]] bool should_prune(Step step) const noexcept {
    const auto& o = options_;
    if (o.end_step >= 0) return detail::is_update(step, o.begin_step, o.end_step, o.frequency);
    return step >= o.begin_step && (step - o.begin_step) % o.frequency == 0;
  }

  [[nodiscard]] const Options& options() const noexcept { return options_; }

 private:
  static constexpr auto kName = "prune.FunctionSchedule";
  Options options_;
};

/// How many of every m weights nm_mask() keeps while training goes from dense to N:M:
///   kept(t) = n + round((m - n) * (1 - t)^power), with t as in PolynomialDecay,
/// so that it falls from m to n, never rising, and the masks of later steps can nest in earlier
/// ones.
class GradualNM {
 public:
  struct Options {
    std::int64_t n = 2;    ///< in [1, m]
    std::int64_t m = 4;    ///< >= 1
    Step begin_step = 0;   ///< >= 0
    Step end_step = 1000;  ///< > begin_step
    double power = 3.0;    ///< finite, > 0; a larger power prunes earlier
    Step frequency = 100;  ///< >= 1

    bool operator==(const Options&) const = default;
  };

  /// Throws Error naming the first option out of range.
  explicit GradualNM(const Options& options) : options_(options) {
    const auto& o = options_;
    constexpr auto where = "prune.GradualNM";
    check(o.m >= 1, where, "m must be >= 1", o.m);
    check(o.n >= 1 && o.n <= o.m, where, "n must be in [1, m]", o.n);
    check(o.begin_step >= 0, where, "begin_step must be >= 0", o.begin_step);
    check(o.end_step > o.begin_step, where,
          "end_step must be > begin_step (" + std::to_string(o.begin_step) + ")", o.end_step);
    check(std::isfinite(o.power) && o.power > 0.0, where, "power must be finite and > 0", o.power);
    check(o.frequency >= 1, where, "frequency must be >= 1", o.frequency);
  }

  /// The n for nm_mask() at `step`, with the m of the options.
  [[nodiscard]] std::int64_t kept(Step step) const noexcept {
    const auto& o = options_;
    if (step <= o.begin_step) return o.m;
    if (step >= o.end_step) return o.n;
    const double t =
        static_cast<double>(step - o.begin_step) / static_cast<double>(o.end_step - o.begin_step);
    const double more = static_cast<double>(o.m - o.n) * std::pow(1.0 - t, o.power);
    return o.n + static_cast<std::int64_t>(std::nearbyint(more));
  }

  /// Share of zeros in every complete group.
  [[nodiscard]] double sparsity(Step step) const noexcept {
    return 1.0 - static_cast<double>(kept(step)) / static_cast<double>(options_.m);
  }

  /// True on begin_step, begin_step + frequency, ..., and always on end_step.
  [[nodiscard]] bool should_prune(Step step) const noexcept {
    const auto& o = options_;
    return detail::is_update(step, o.begin_step, o.end_step, o.frequency);
  }

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  bool operator==(const GradualNM&) const = default;

 private:
  Options options_;
};

/// The share of kept weights that regrow() exchanges at a step:
///   fraction(t) = initial_fraction * (1 + cos(pi t)) / 2, with t as in PolynomialDecay.
/// Evci et al., Rigging the Lottery, ICML 2020, section 3.
class CosineRegrowth {
 public:
  struct Options {
    double initial_fraction = 0.3;  ///< in [0, 1]
    Step begin_step = 0;            ///< >= 0
    Step end_step = 1000;           ///< > begin_step
    Step frequency = 100;           ///< >= 1

    bool operator==(const Options&) const = default;
  };

  /// Throws Error naming the first option out of range.
  explicit CosineRegrowth(const Options& options) : options_(options) {
    const auto& o = options_;
    constexpr auto where = "prune.CosineRegrowth";
    check(o.initial_fraction >= 0.0 && o.initial_fraction <= 1.0, where,
          "initial_fraction must be in [0, 1]", o.initial_fraction);
    check(o.begin_step >= 0, where, "begin_step must be >= 0", o.begin_step);
    check(o.end_step > o.begin_step, where,
          "end_step must be > begin_step (" + std::to_string(o.begin_step) + ")", o.end_step);
    check(o.frequency >= 1, where, "frequency must be >= 1", o.frequency);
  }

  /// Zero from end_step on.
  [[nodiscard]] double fraction(Step step) const noexcept {
    const auto& o = options_;
    if (step <= o.begin_step) return o.initial_fraction;
    if (step >= o.end_step) return 0.0;
    const double t =
        static_cast<double>(step - o.begin_step) / static_cast<double>(o.end_step - o.begin_step);
    return o.initial_fraction * detail::CosineCurve::left(t);
  }

  /// True on begin_step, begin_step + frequency, ... before end_step.
  [[nodiscard]] bool should_regrow(Step step) const noexcept {
    const auto& o = options_;
    return step >= o.begin_step && step < o.end_step && (step - o.begin_step) % o.frequency == 0;
  }

  [[nodiscard]] const Options& options() const noexcept { return options_; }
  bool operator==(const CosineRegrowth&) const = default;

 private:
  Options options_;
};

}  // namespace moptcore::inline v0::prune
