// SPDX-License-Identifier: Apache-2.0
#include "lowrank/krylov.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/random.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>

#include "kernels/product.hpp"

namespace moptcore::inline v0::lowrank {
namespace {

using Small = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using SmallFloat = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t kTile = 256;  // columns of a product that one thread computes

// c [m, n] += a b with few rows and many columns. a's elements are `a_row` and `a_col` apart.
void accumulate(std::int64_t m, std::int64_t n, std::int64_t depth, const float* a,
                std::int64_t a_row, std::int64_t a_col, const float* b, std::int64_t b_stride,
                float* c, std::int64_t c_stride) {
  parallel_for(n, kTile, [&](std::int64_t first, std::int64_t last) {
    kernels::product_f32(m, last - first, depth, {a, a_row, a_col}, {b + first, b_stride, 1},
                         {c + first, c_stride, 1});
  });
}

// c [m, n] = a b^T of rows of equal length, few of a and many of b.
void against(std::int64_t m, std::int64_t n, std::int64_t depth, const float* a, const float* b,
             float* c, std::int64_t c_stride) {
  parallel_for(n, kTile, [&](std::int64_t first, std::int64_t last) {
    // The many rows on the left: the right side is what gets rearranged.
    const std::int64_t count = last - first;
    std::vector<float> turned(static_cast<std::size_t>(count * m), 0.0F);
    kernels::product_f32(count, m, depth, {b + first * depth, depth, 1}, {a, 1, depth},
                         {turned.data(), m, 1});
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < count; ++j) {
        c[i * c_stride + first + j] = turned[static_cast<std::size_t>(j * m + i)];
      }
    }
  });
}

// Rows of orthonormal vectors that grows by blocks.
class Basis {
 public:
  Basis(std::int64_t most, std::int64_t size) : rows_(most, size) {}

  [[nodiscard]] std::int64_t count() const { return count_; }
  [[nodiscard]] std::int64_t size() const { return rows_.cols; }
  [[nodiscard]] const float* data() const { return rows_.values.data(); }
  [[nodiscard]] const float* block(std::int64_t rows) const { return rows_.row(count_ - rows); }

  // Adds what the rows of `block` hold beyond the basis. false where that is not all of full rank.
  bool add(Matrix<float> block) {
    if (count_ > 0) {
      // Once is enough where little cancels; else rounding leaves a part of what was taken away.
      constexpr double kCancelled = 0.01;
      const double before = norm(block);
      remove(block);
      if (norm(block) < kCancelled * before) remove(block);
    }
    for (int pass = 0; pass < 2; ++pass) {
      if (!orthonormalize(block, pass == 0)) return false;
    }
    std::ranges::copy(block.values, rows_.row(count_));
    count_ += block.rows;
    return true;
  }

  // Makes the rows of a block orthonormal: the Cholesky factor of the squares takes twice.
  static bool orthonormalize(Matrix<float>& block, bool rough, Matrix<float>* along = nullptr) {
    const std::int64_t rows = block.rows;
    SmallFloat gram(rows, rows);
    against(rows, rows, block.cols, block.values.data(), block.values.data(), gram.data(), rows);
    const Eigen::LLT<Small> factored(gram.cast<double>());
    const Eigen::VectorXd diagonal = factored.matrixLLT().diagonal();
    // The squares are known to 2^-23 of the largest.
    const double least = rough ? 3e-3 : 0.5;
    if (factored.info() != Eigen::Success || !(diagonal.minCoeff() > least * diagonal.maxCoeff()) ||
        !(diagonal.minCoeff() > 0.0)) {
      return false;
    }
    Small inverse = Small::Identity(rows, rows);
    factored.matrixL().solveInPlace(inverse);
    const SmallFloat narrow = inverse.cast<float>();
    for (Matrix<float>* each : {&block, along}) {
      if (each == nullptr) continue;
      Matrix<float> turned(rows, each->cols);
      accumulate(rows, each->cols, rows, narrow.data(), rows, 1, each->values.data(), each->cols,
                 turned.values.data(), each->cols);
      *each = std::move(turned);
    }
    return true;
  }

 private:
  static double norm(const Matrix<float>& block) {
    double sum = 0.0;
    for (const float value : block.values) sum += static_cast<double>(value) * value;
    return std::sqrt(sum);
  }

  void remove(Matrix<float>& block) const {
    Matrix<float> along(block.rows, count_);
    against(block.rows, count_, size(), block.values.data(), data(), along.values.data(), count_);
    for (float& value : along.values) value = -value;
    accumulate(block.rows, size(), count_, along.values.data(), count_, 1, data(), size(),
               block.values.data(), size());
  }

  Matrix<float> rows_;
  std::int64_t count_ = 0;
};

// A symmetric matrix brought to tridiagonal form, and its eigenvalues, ascending.
struct Tridiagonal {
  explicit Tridiagonal(const Eigen::MatrixXf& symmetric)
      : form(symmetric),
        diagonal(form.diagonal().cast<double>()),
        beside(form.subDiagonal().cast<double>()) {
    Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
    solver.computeFromTridiagonal(diagonal, beside, Eigen::EigenvaluesOnly);
    converged = solver.info() == Eigen::Success;
    values = solver.eigenvalues();
  }

  [[nodiscard]] double leading(std::int64_t count) const { return values.tail(count).sum(); }

  // Eigenvectors of the largest eigenvalues of the matrix in the columns, by inverse iteration;
  // close to orthonormal, but for eigenvalues that are close to each other.
  [[nodiscard]] Eigen::MatrixXf vectors(std::int64_t count, const Matrix<double>& start) const {
    const std::int64_t n = diagonal.size();
    Eigen::MatrixXd found(n, count);
    parallel_for(count, 8, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t k = first; k < last; ++k) {
        Eigen::VectorXd x = Eigen::Map<const Eigen::VectorXd>(start.row(k), n);
        for (int pass = 0; pass < 2; ++pass) solve(values[n - 1 - k], x);
        found.col(k) = x;
      }
    });
    return form.matrixQ() * found.cast<float>();
  }

  Eigen::Tridiagonalization<Eigen::MatrixXf> form;
  Eigen::VectorXd diagonal;
  Eigen::VectorXd beside;
  Eigen::VectorXd values;
  bool converged = false;

 private:
  // x becomes a solution of (T - value) x' = x of norm 1, by elimination with row exchanges.
  void solve(double value, Eigen::VectorXd& x) const {
    const std::int64_t n = x.size();
    const double tiny = std::numeric_limits<double>::epsilon() *
                            std::max(std::abs(values[0]), std::abs(values[n - 1])) +
                        std::numeric_limits<double>::min();
    std::vector<double> pivot(static_cast<std::size_t>(n));
    std::vector<double> second(static_cast<std::size_t>(n), 0.0);
    std::vector<double> third(static_cast<std::size_t>(n), 0.0);
    double here = diagonal[0] - value;
    double next = n > 1 ? beside[0] : 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (i + 1 == n) {
        pivot[at] = std::abs(here) < tiny ? tiny : here;
        break;
      }
      const double below = beside[i];
      const double under = diagonal[i + 1] - value;
      const double beyond = i + 2 < n ? beside[i + 1] : 0.0;
      if (std::abs(here) >= std::abs(below)) {
        pivot[at] = std::abs(here) < tiny ? tiny : here;
        second[at] = next;
        const double factor = below / pivot[at];
        x[i + 1] -= factor * x[i];
        here = under - factor * next;
        next = beyond;
      } else {
        pivot[at] = below;
        second[at] = under;
        third[at] = beyond;
        const double factor = here / below;
        std::swap(x[i], x[i + 1]);
        x[i + 1] -= factor * x[i];
        here = next - factor * under;
        next = -factor * beyond;
      }
    }
    for (std::int64_t i = n - 1; i >= 0; --i) {
      const auto at = static_cast<std::size_t>(i);
      if (i + 1 < n) x[i] -= second[at] * x[i + 1];
      if (i + 2 < n) x[i] -= third[at] * x[i + 2];
      x[i] /= pivot[at];
      // Solutions grow by up to 1 / epsilon each time.
      if (std::abs(x[i]) > 1e200) x *= 1e-200;
    }
    x.normalize();
  }
};

// What further steps would add to a sum that grew so far like this: a geometric series through its
// last three values.
class Growth {
 public:
  void add(std::int64_t step, double value) {
    steps_.push_back(step);
    values_.push_back(value);
  }
  [[nodiscard]] bool known() const { return values_.size() >= 3; }

  // What each step adds of what the one before did.
  [[nodiscard]] double ratio() const {
    const std::size_t n = values_.size();
    const auto late = static_cast<double>(steps_[n - 1] - steps_[n - 2]);
    const auto early = static_cast<double>(steps_[n - 2] - steps_[n - 3]);
    const double last = std::max(values_[n - 1] - values_[n - 2], 0.0) / late;
    const double before = std::max(values_[n - 2] - values_[n - 3], 0.0) / early;
    if (!(before > 0.0)) return 0.0;
    return std::clamp(std::pow(last / before, 2.0 / (late + early)), 0.1, 0.95);
  }

  [[nodiscard]] double rest() const {
    const std::size_t n = values_.size();
    const double r = std::pow(ratio(), static_cast<double>(steps_[n - 1] - steps_[n - 2]));
    return std::max(values_[n - 1] - values_[n - 2], 0.0) * r / (1.0 - r);
  }

 private:
  std::vector<std::int64_t> steps_;
  std::vector<double> values_;
};

// The vectors y of the small problem as directions of w.
std::optional<LeadingRows> combined(const Tridiagonal& problem, std::int64_t rank,
                                    const Basis& basis, const Matrix<float>& images,
                                    std::uint64_t seed) {
  const std::int64_t width = basis.count();
  const Eigen::MatrixXf vectors = problem.vectors(rank, gaussian(rank, width, ~seed));
  LeadingRows result{Matrix<float>(rank, basis.size()), Matrix<float>(rank, images.cols)};
  // Columns of Eigen's are rows of ours.
  accumulate(rank, basis.size(), width, vectors.data(), width, 1, basis.data(), basis.size(),
             result.left.values.data(), basis.size());
  accumulate(rank, images.cols, width, vectors.data(), width, 1, images.values.data(), images.cols,
             result.right.values.data(), images.cols);
  for (int pass = 0; pass < 2; ++pass) {
    if (!Basis::orthonormalize(result.left, pass == 0, &result.right)) return std::nullopt;
  }
  return result;
}

std::optional<LeadingRows> search(const Matrix<float>& w, double total, std::int64_t rank,
                                  double tolerance, std::uint64_t seed) {
  const std::int64_t block = std::clamp<std::int64_t>(rank / 4, 4, 32);
  // With half of all directions the exact decomposition is no dearer.
  const std::int64_t most = std::min(w.rows, w.cols) / (2 * block) * block;
  if (most < 2 * rank + block) return std::nullopt;
  Basis left(most, w.rows);
  Basis right(most + block, w.cols);
  Matrix<float> images(most, w.cols);  // left w
  Eigen::MatrixXf squares(most, most);
  if (!right.add(narrowed(gaussian(block, w.cols, seed)))) return std::nullopt;
  Growth growth;
  std::int64_t check_at = 2 * rank;
  // Below this share of the norm float products cannot tell losses apart.
  constexpr double kResolution = 1e-5;
  while (left.count() + block <= most) {
    Matrix<float> forward(block, w.rows);
    against(block, w.rows, w.cols, right.block(block), w.values.data(), forward.values.data(),
            w.rows);
    if (!left.add(std::move(forward))) return std::nullopt;
    const std::int64_t width = left.count();
    float* image = images.row(width - block);
    accumulate(block, w.cols, w.rows, left.block(block), w.rows, 1, w.values.data(), w.cols, image,
               w.cols);
    // Columns of the symmetric matrix: its upper triangle is the transpose of rows below.
    Matrix<float> products(block, width);
    against(block, width, w.cols, image, images.values.data(), products.values.data(), width);
    for (std::int64_t i = 0; i < block; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        squares(width - block + i, j) = squares(j, width - block + i) = products.row(i)[j];
      }
    }
    if (width >= check_at) {
      const Tridiagonal problem(squares.topLeftCorner(width, width));
      if (!problem.converged) return std::nullopt;
      const double kept = problem.leading(rank);
      if (total - kept < kResolution * total) return std::nullopt;
      growth.add(width / block, kept);
      check_at = width + block;
      if (growth.known()) {
        // A share t of the error is 2 t of its square; a part is left for what is not geometric.
        const double rest = growth.rest();
        const double allowed = 1.4 * tolerance * std::max(total - kept - rest, 0.0);
        if (rest <= allowed) return combined(problem, rank, left, images, seed);
        const double steps = std::log(std::max(allowed, 1e-300) / rest) / std::log(growth.ratio());
        const std::int64_t ahead = std::max<std::int64_t>(width / (4 * block), 1);
        check_at =
            width + block * std::clamp(static_cast<std::int64_t>(steps), std::int64_t{1}, ahead);
      }
    }
    Matrix<float> back(block, w.cols);
    std::copy_n(image, back.values.size(), back.values.begin());
    if (!right.add(std::move(back))) return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

Matrix<double> gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix<double> result(rows, cols);
  const Philox random(seed);
  const std::int64_t n = rows * cols;
  constexpr std::int64_t kGrain = 4096;  // a multiple of four
  parallel_for(n, kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; i += 4) {
      const Philox::Block words = random(static_cast<std::uint64_t>(i / 4));
      for (int pair = 0; pair < 2; ++pair) {
        // Box and Muller, 1958; (word + 0.5) / 2^32 is in (0, 1).
        const double radius =
            std::sqrt(-2.0 * std::log((static_cast<double>(words[2 * pair]) + 0.5) * 0x1p-32));
        const double angle =
            2.0 * std::numbers::pi * (static_cast<double>(words[2 * pair + 1]) + 0.5) * 0x1p-32;
        const double values[2] = {radius * std::cos(angle), radius * std::sin(angle)};
        for (int k = 0; k < 2; ++k) {
          const std::int64_t at = i + 2 * pair + k;
          if (at < last) result.values[static_cast<std::size_t>(at)] = values[k];
        }
      }
    }
  });
  return result;
}

std::optional<LeadingRows> krylov(const Matrix<float>& w, double total, std::int64_t rank,
                                  double tolerance, std::uint64_t seed) {
  return search(w, total, rank, tolerance, seed);
}

}  // namespace moptcore::inline v0::lowrank
