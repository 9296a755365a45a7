// SPDX-License-Identifier: Apache-2.0
// What classifiers and regressors of ai.onnx.ml do with their scores at the end.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <moptcore/graph/operator.hpp>

namespace moptcore::inline v0::graph {

enum class ScoreTransform : std::uint8_t { none, softmax, logistic, softmax_zero, probit };

/// Of the attribute post_transform, a text. Throws Error for one that there is not.
[[nodiscard]] ScoreTransform score_transform(const Call& call);

/// Of one row, in place.
void transform_scores(ScoreTransform transform, std::span<double> row);

/// Elements of a matrix (count, width) as double; a vector is one row.
struct Features {
  std::vector<double> values;
  std::int64_t rows = 1;
  std::int64_t width = 0;
  [[nodiscard]] const double* row(std::int64_t i) const { return values.data() + i * width; }
};

/// Input 0, of any number type. Throws Error where it is no vector or matrix.
[[nodiscard]] Features features_of(const Call& call);

/// The first greatest of a row.
[[nodiscard]] std::int64_t best_of(std::span<const double> row);

/// Numbers of an attribute that is a list of floats, or a tensor "<name>_as_tensor".
[[nodiscard]] std::vector<double> numbers_of(const Call& call, const std::string& name);
[[nodiscard]] std::vector<double> numbers_of(const Call& call, const Tensor& tensor);

/// Output `index` of type T, float32 unless the type is another, from numbers.
void write_scores(Call& call, int index, ElementType type, const Shape& shape,
                  std::span<const double> scores);

}  // namespace moptcore::inline v0::graph
