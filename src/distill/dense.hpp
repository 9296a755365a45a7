// SPDX-License-Identifier: Apache-2.0
// What the losses between whole features share: checks, and tensors as rows of doubles.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/tensor_view.hpp>

#include "distill/kept_rows.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::distill {

/// Values that one block of work touches about: some microseconds.
inline constexpr std::int64_t kBlockValues = 16384;

/// Rows of `width` values that make a block.
[[nodiscard]] inline std::int64_t rows_a_block(std::int64_t width) {
  return std::max<std::int64_t>(1, kBlockValues / std::max<std::int64_t>(1, width));
}

/// Both must be floating, and the gradient like the student and in no half overlap.
inline void check_pair(const AnyView& student, const AnyView& teacher, const MutableAnyView& grad,
                       std::string_view where) {
  check<DTypeError>(is_floating(student.dtype()), where,
                    "student must be float64, float32, float16 or bfloat16", name(student.dtype()));
  check<DTypeError>(is_floating(teacher.dtype()), where,
                    "teacher must be float64, float32, float16 or bfloat16", name(teacher.dtype()));
  check<DTypeError>(grad.dtype() == student.dtype(), where,
                    "out must have the student's dtype " + std::string(name(student.dtype())),
                    name(grad.dtype()));
  check(grad.shape() == student.shape(), where,
        "out must have the student's shape " + shape_text(student.shape()), grad.shape());
  check_no_partial_overlap(student, grad, where, "out");
  check_no_partial_overlap(teacher, grad, where, "out");
}

inline void check_same_shape(const AnyView& student, const AnyView& teacher,
                             std::string_view where) {
  check(teacher.shape() == student.shape(), where,
        "teacher must have the student's shape " + shape_text(student.shape()), teacher.shape());
}

/// Both must have the same number of samples in their first axis; the others are free.
inline void check_same_samples(const AnyView& student, const AnyView& teacher,
                               std::string_view where) {
  check(student.rank() >= 1, where, "student must have an axis of samples, its first",
        student.shape());
  check(teacher.rank() >= 1 && teacher.shape()[0] == student.shape()[0], where,
        "teacher must have the student's " + std::to_string(student.shape()[0]) +
            " samples in its first axis",
        teacher.shape());
}

inline void check_weight(double value, std::string_view argument, std::string_view where) {
  check(value >= 0.0 && std::isfinite(value), where,
        std::string(argument) + " must be >= 0 and finite", value);
}

/// All elements in row-major order, as doubles.
[[nodiscard]] inline std::vector<double> load_all(const AnyView& view) {
  std::vector<double> values(static_cast<std::size_t>(view.size()));
  parallel_for(view.size(), kBlockValues, [&](std::int64_t first, std::int64_t last) {
    kernels::load(view, first, last - first, values.data() + first);
  });
  return values;
}

inline void store_all(const std::vector<double>& values, const MutableAnyView& view) {
  parallel_for(view.size(), kBlockValues, [&](std::int64_t first, std::int64_t last) {
    kernels::store(values.data() + first, first, last - first, view);
  });
}

/// Multiplies by a power of two that brings the largest magnitude into [0.5, 1), and returns it:
/// losses that do not depend on the scale then square and multiply without overflow or underflow.
/// Values that are all 0, or hold an infinity, stay.
inline double to_unit(double* values, std::int64_t n) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(values[i]));
  if (largest == 0.0 || !std::isfinite(largest)) return 1.0;
  const int exponent = std::clamp(std::ilogb(largest) + 1, -1000, 1000);
  const double factor = std::ldexp(1.0, -exponent);
  for (std::int64_t i = 0; i < n; ++i) values[i] *= factor;
  return factor;
}

/// The sum of one number a block, in the order of the blocks.
[[nodiscard]] inline double sum_of(const std::vector<double>& parts) {
  double total = 0.0;
  for (const double part : parts) total += part;
  return total;
}

}  // namespace moptcore::inline v0::distill
