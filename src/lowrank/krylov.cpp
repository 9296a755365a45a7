// SPDX-License-Identifier: Apache-2.0
#include "lowrank/krylov.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>
#include <moptcore/core/random.hpp>

#include <Eigen/Cholesky>

#include "kernels/panel.hpp"
#include "lowrank/band.hpp"

namespace moptcore::inline v0::lowrank {
namespace {

using kernels::kPanelRows;
using Small = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t kColumns = 21 * kPanelRows;  // elements of a block that one thread computes

// Rows of equal length in the order of the kernels.
class Panels {
 public:
  Panels(std::int64_t rows, std::int64_t size)
      : count_(block_count(rows, kPanelRows)),
        size_(size),
        buffer_(pool_allocate(count_ * stride() * static_cast<std::int64_t>(sizeof(float)))) {}

  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  [[nodiscard]] std::int64_t stride() const noexcept { return size_ * kPanelRows; }
  [[nodiscard]] float* panel(std::int64_t p) const noexcept {
    return static_cast<float*>(buffer_.get()) + p * stride();
  }

 private:
  std::int64_t count_;
  std::int64_t size_;
  PoolBuffer buffer_;
};

// A block: [size, columns], few columns.
using Block = std::vector<float>;

Block block_of(std::int64_t size, std::int64_t columns) {
  return Block(static_cast<std::size_t>(size * columns), 0.0F);
}

// w, longer than wide, in panels: what the search multiplies with.
class Operand {
 public:
  Operand(const Leading& w)
      : tall_(w.rows >= w.cols),
        rows_(std::max(w.rows, w.cols)),
        panels_(rows_, std::min(w.rows, w.cols)) {
    const std::int64_t row_stride = tall_ ? w.cols : 1;
    const std::int64_t col_stride = tall_ ? 1 : w.cols;
    parallel_for(panels_.count(), 4, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t p = first; p < last; ++p) {
        kernels::pack_panel_f32(w.data + p * kPanelRows * row_stride, row_stride, col_stride,
                                std::min(kPanelRows, rows_ - p * kPanelRows), size(), w.scale,
                                panels_.panel(p));
      }
    });
  }

  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t size() const noexcept { return panels_.size(); }

  // w x, [rows rounded up, columns]
  [[nodiscard]] Block times(const Block& x, std::int64_t columns) const {
    Block y = block_of(panels_.count() * kPanelRows, columns);
    parallel_for(panels_.count(), 4, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t p = first; p < last; ++p) {
        kernels::panel_times_f32(panels_.panel(p), size(), x.data(), columns,
                                 y.data() + p * kPanelRows * columns);
      }
    });
    return y;
  }

  // w^T y of the y that `rows_of` makes of two panels at a time: [size, columns]. Partial sums of
  // groups whose number depends on the shape alone.
  template <class Rows>
  [[nodiscard]] Block transposed_times(std::int64_t columns, Rows&& rows_of) const {
    constexpr std::int64_t kGroups = 8;
    constexpr std::int64_t kPair = 2;
    const std::int64_t grain = block_count(block_count(panels_.count(), kGroups), kPair) * kPair;
    const std::int64_t groups = block_count(panels_.count(), grain);
    const std::int64_t length = size() * columns;
    Block parts = block_of(size(), groups * columns);
    parallel_blocks(
        panels_.count(), grain, [&](std::int64_t group, std::int64_t first, std::int64_t last) {
          Block y = block_of(kPair * kPanelRows, columns);
          for (std::int64_t p = first; p < last; p += kPair) {
            const std::int64_t count = std::min(kPair, last - p);
            for (std::int64_t k = 0; k < count; ++k) {
              rows_of(panels_, p + k, y.data() + k * kPanelRows * columns);
            }
            kernels::add_transposed_f32(panels_.panel(p), panels_.stride(), count, size(), y.data(),
                                        columns, false, parts.data() + group * length);
          }
        });
    Block sum = block_of(size(), columns);
    parallel_for(length, kColumns * columns, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t group = 0; group < groups; ++group) {
        const float* part = parts.data() + group * length;
        for (std::int64_t i = first; i < last; ++i) sum[static_cast<std::size_t>(i)] += part[i];
      }
    });
    return sum;
  }

  // w^T w x: every panel serves both products while it is in the cache.
  [[nodiscard]] Block squared_times(const Block& x, std::int64_t columns) const {
    return transposed_times(columns, [&](const Panels& panels, std::int64_t p, float* y) {
      kernels::panel_times_f32(panels.panel(p), size(), x.data(), columns, y);
    });
  }

 private:
  bool tall_;
  std::int64_t rows_;
  Panels panels_;
};

double norm(const Block& block) {
  double sum = 0.0;
  for (const float value : block) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

// Makes the columns of a block orthonormal: the Cholesky factor of the squares takes twice. false
// where they are not of full rank.
bool orthonormalize(Block& block, std::int64_t size, std::int64_t columns) {
  const Panels turned(columns, size);
  for (int pass = 0; pass < 2; ++pass) {
    Block squares = block_of(turned.count() * kPanelRows, columns);
    for (std::int64_t p = 0; p < turned.count(); ++p) {
      kernels::pack_panel_f32(block.data() + p * kPanelRows, 1, columns,
                              std::min(kPanelRows, columns - p * kPanelRows), size, 1.0F,
                              turned.panel(p));
      kernels::panel_times_f32(turned.panel(p), size, block.data(), columns,
                               squares.data() + p * kPanelRows * columns);
    }
    Small gram(columns, columns);
    for (std::int64_t i = 0; i < columns * columns; ++i) {
      gram.data()[i] = squares[static_cast<std::size_t>(i)];
    }
    const Eigen::LLT<Small> factored(gram);
    const Eigen::VectorXd diagonal = factored.matrixLLT().diagonal();
    // The squares are known to 2^-23 of the largest.
    const double least = pass == 0 ? 3e-3 : 0.5;
    if (factored.info() != Eigen::Success || !(diagonal.minCoeff() > least * diagonal.maxCoeff()) ||
        !(diagonal.minCoeff() > 0.0)) {
      return false;
    }
    Small inverse = Small::Identity(columns, columns);
    factored.matrixU().solveInPlace(inverse);
    Block factor = block_of(turned.count() * kPanelRows, columns);
    for (std::int64_t i = 0; i < columns * columns; ++i) {
      factor[static_cast<std::size_t>(i)] = static_cast<float>(inverse.data()[i]);
    }
    std::ranges::fill(block, 0.0F);
    kernels::add_transposed_f32(turned.panel(0), turned.stride(), turned.count(), size,
                                factor.data(), columns, false, block.data());
  }
  return true;
}

// Orthonormal columns that grow by blocks.
class Basis {
 public:
  Basis(std::int64_t most, std::int64_t size, std::int64_t block)
      : block_(block), panels_(most, size) {}

  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  // The block that came last.
  [[nodiscard]] const Block& last() const noexcept { return last_; }

  // Takes out of x what the columns from `from` on, or a few before, hold of it, and returns how
  // much that is of each, in rows of a block.
  Block remove(Block& x, std::int64_t from) const {
    const std::int64_t start = from / kPanelRows;
    const std::int64_t used = block_count(count_, kPanelRows) - start;
    Block along = block_of(used * kPanelRows, block_);
    parallel_for(used, 4, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t p = first; p < last; ++p) {
        kernels::panel_times_f32(panels_.panel(start + p), panels_.size(), x.data(), block_,
                                 along.data() + p * kPanelRows * block_);
      }
    });
    parallel_for(panels_.size(), kColumns, [&](std::int64_t first, std::int64_t last) {
      kernels::add_transposed_f32(panels_.panel(start) + first * kPanelRows, panels_.stride(), used,
                                  last - first, along.data(), block_, true,
                                  x.data() + first * block_);
    });
    along.erase(along.begin(), along.begin() + (from - start * kPanelRows) * block_);
    return along;
  }

  // Adds what x, of which the basis was taken out, spans. false where that is not of full rank.
  bool add(Block x) {
    if (!orthonormalize(x, panels_.size(), block_)) return false;
    for (std::int64_t i = 0; i < block_; ++i) {
      const std::int64_t at = count_ + i;
      float* to = panels_.panel(at / kPanelRows) + at % kPanelRows;
      if (at % kPanelRows == 0) std::fill_n(to, panels_.stride(), 0.0F);
      for (std::int64_t j = 0; j < panels_.size(); ++j) {
        to[j * kPanelRows] = x[static_cast<std::size_t>(j * block_ + i)];
      }
    }
    count_ += block_;
    last_ = std::move(x);
    return true;
  }

  // The basis times the columns [first, first + columns) of `factors`: [size, columns].
  [[nodiscard]] Block combined(const Matrix<float>& factors, std::int64_t first,
                               std::int64_t columns) const {
    const std::int64_t used = block_count(count_, kPanelRows);
    Block factor = block_of(used * kPanelRows, columns);
    const std::int64_t there = std::min(columns, factors.cols - first);
    for (std::int64_t i = 0; i < count_; ++i) {
      std::copy_n(factors.row(i) + first, there, factor.data() + i * columns);
    }
    Block result = block_of(panels_.size(), columns);
    parallel_for(panels_.size(), kColumns, [&](std::int64_t from, std::int64_t to) {
      kernels::add_transposed_f32(panels_.panel(0) + from * kPanelRows, panels_.stride(), used,
                                  to - from, factor.data(), columns, false,
                                  result.data() + from * columns);
    });
    return result;
  }

 private:
  std::int64_t block_;
  std::int64_t count_ = 0;
  Block last_;
  Panels panels_;
};

// What further steps would add to a sum that grew so far like this: a geometric series.
class Growth {
 public:
  void add(std::int64_t step, double value) { points_.push_back({step, value}); }
  [[nodiscard]] bool known() const { return points_.size() >= 3; }
  [[nodiscard]] std::int64_t last() const { return points_.back().step; }

  // What each step adds of what the one before did. The last three values show it best, but single
  // steps add unevenly; over more of them it is never less, as the gains fall ever faster.
  [[nodiscard]] double ratio() const {
    const std::size_t n = points_.size();
    const double late = between(n - 3, n - 2, n - 1);
    return n > 3 ? std::min(late, between(n - 4, n - 3, n - 1)) : late;
  }

  [[nodiscard]] double rest() const {
    const Point& before = points_[points_.size() - 3];
    const double r = std::pow(ratio(), static_cast<double>(last() - before.step));
    return std::max(points_.back().value - before.value, 0.0) * r / (1.0 - r);
  }

 private:
  struct Point {
    std::int64_t step;
    double value;
  };

  // From what the steps from a to b and those from b to c add on average.
  [[nodiscard]] double between(std::size_t a, std::size_t b, std::size_t c) const {
    const auto early = static_cast<double>(points_[b].step - points_[a].step);
    const auto late = static_cast<double>(points_[c].step - points_[b].step);
    const double before = std::max(points_[b].value - points_[a].value, 0.0) / early;
    const double after = std::max(points_[c].value - points_[b].value, 0.0) / late;
    constexpr double kLeast = 0.1;
    if (!(before > 0.0)) return kLeast;
    return std::clamp(std::pow(after / before, 2.0 / (late + early)), kLeast, 0.95);
  }

  std::vector<Point> points_;
};

// The eigenvectors of the small problem, orthonormal, and their quotients on its diagonal.
std::optional<Matrix<float>> small_vectors(const Band& squares, const BandSpectrum& spectrum,
                                           std::int64_t rank, std::uint64_t seed) {
  const std::int64_t width = squares.size();
  Matrix<double> found = widened(spectrum.vectors(gaussian(rank, width, ~seed)));
  Eigen::Map<Small> vectors(found.values.data(), width, rank);
  for (int pass = 0; pass < 2; ++pass) {
    const Eigen::LLT<Small> factored(Small(vectors.transpose() * vectors));
    // Vectors of one eigenvalue may come out alike.
    constexpr double kAlike = 1e-4;
    const Eigen::VectorXd diagonal = factored.matrixLLT().diagonal();
    if (factored.info() != Eigen::Success || !(diagonal.minCoeff() > kAlike)) return std::nullopt;
    vectors = factored.matrixU().solve<Eigen::OnTheRight>(vectors).eval();
  }
  Small images = Small::Zero(width, rank);
  for (std::int64_t j = 0; j < width; ++j) {
    for (std::int64_t i = j; i < std::min(width, j + squares.width() + 1); ++i) {
      images.row(i) += squares.at(i, j) * vectors.row(j);
      if (i != j) images.row(j) += squares.at(i, j) * vectors.row(i);
    }
  }
  const Matrix<double> product = [&] {
    Matrix<double> result(rank, rank);
    Eigen::Map<Small>(result.values.data(), rank, rank) = vectors.transpose() * images;
    return result;
  }();
  const Spectrum turn = eigenvectors(product);
  vectors *= Eigen::Map<const Small>(turn.vectors.values.data(), rank, rank);
  return narrowed(found);
}

// Directions in the basis, and what w makes of them.
LeadingTerms terms(const Operand& w, const Basis& basis, const Matrix<float>& factors) {
  constexpr std::int64_t kTogether = 16;
  const std::int64_t rank = factors.cols;
  LeadingTerms result{Matrix<float>(rank, w.size()), Matrix<float>(rank, w.rows())};
  for (std::int64_t first = 0; first < rank; first += kTogether) {
    const Block directions = basis.combined(factors, first, kTogether);
    const Block images = w.times(directions, kTogether);
    for (std::int64_t k = first; k < std::min(first + kTogether, rank); ++k) {
      float* direction = result.directions.row(k);
      for (std::int64_t i = 0; i < w.size(); ++i) {
        direction[i] = directions[static_cast<std::size_t>(i * kTogether + k - first)];
      }
      float* image = result.images.row(k);
      for (std::int64_t i = 0; i < w.rows(); ++i) {
        image[i] = images[static_cast<std::size_t>(i * kTogether + k - first)];
      }
    }
  }
  return result;
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

std::optional<LeadingTerms> krylov(const Leading& matrix, double total, std::int64_t rank,
                                   double tolerance, std::uint64_t seed) {
  // Narrow blocks need fewer directions; matrices beyond the caches are read once a block.
  constexpr std::int64_t kCached = std::int64_t{6} << 20;
  const std::int64_t block = rank <= 128 && matrix.rows * matrix.cols <= kCached ? 8 : 16;
  // With half of all directions the exact decomposition is no dearer.
  const std::int64_t most = std::min(matrix.rows, matrix.cols) / (2 * block) * block;
  if (most < 2 * rank + block) return std::nullopt;
  const Operand w(matrix);
  Basis basis(most, w.size(), block);
  Band squares(most, block);
  const Block start = [&] {
    const Matrix<float> values = narrowed(gaussian(w.rows() + kPanelRows, block, seed));
    return w.transposed_times(block, [&](const Panels&, std::int64_t p, float* y) {
      std::copy_n(values.row(p * kPanelRows), kPanelRows * block, y);
    });
  }();
  if (!basis.add(start)) return std::nullopt;
  Growth growth;
  std::int64_t check_at = std::max(2 * rank, 2 * block);
  bool leapt = false;
  // Below this share of the norm float products cannot tell losses apart.
  constexpr double kResolution = 1e-5;
  while (true) {
    Block next = w.squared_times(basis.last(), block);
    const std::int64_t width = basis.count();
    const double before = norm(next);
    const std::int64_t from = std::max<std::int64_t>(width - 2 * block, 0);
    // In exact arithmetic that is all; taken out first, it leaves little that could disturb the
    // orthogonality to the rest.
    const Block along = basis.remove(next, from);
    for (std::int64_t i = from; i < width; ++i) {
      for (std::int64_t j = std::max(width - block, i); j <= std::min(i + block, width - 1); ++j) {
        squares.at(j, i) =
            along[static_cast<std::size_t>((i - from) * block + j - (width - block))];
      }
    }
    if (width >= check_at) {
      // After a leap the last steps alone show how fast the sum still grows.
      for (const std::int64_t earlier : {width - 4 * block, width - 2 * block}) {
        if (growth.known() && growth.last() * block < earlier) {
          growth.add(earlier / block, BandSpectrum(squares.leading(earlier), rank, false).sum());
        }
      }
      const Band now = squares.leading(width);
      const BandSpectrum spectrum(now, rank, true);
      const double kept = spectrum.sum();
      if (total - kept < kResolution * total) return std::nullopt;
      growth.add(width / block, kept);
      check_at = width + std::max(rank / 2, block);
      if (growth.known()) {
        // A share t of the error is 2 t of its square; a part is left for what is not geometric.
        const double rest = growth.rest();
        const double allowed = 1.4 * tolerance * std::max(total - kept - rest, 0.0);
        if (rest <= allowed) {
          const std::optional<Matrix<float>> factors = small_vectors(now, spectrum, rank, seed);
          if (!factors) return std::nullopt;
          return terms(w, basis, *factors);
        }
        // Krylov spaces gain faster than geometrically towards the end.
        constexpr double kSooner = 0.55;
        const double steps =
            kSooner * std::log(std::max(allowed, 1e-300) / rest) / std::log(growth.ratio());
        const std::int64_t ahead = leapt ? 4 : std::max<std::int64_t>(width / (2 * block), 4);
        check_at = width + block * std::clamp<std::int64_t>(
                                       static_cast<std::int64_t>(std::min(steps, 1e6)), 2, ahead);
        leapt = true;
      }
    }
    if (width + block > most) return std::nullopt;
    basis.remove(next, 0);
    // Where next to nothing is left, rounding leaves a part of what was taken away.
    constexpr double kCancelled = 0.01;
    if (norm(next) < kCancelled * before) basis.remove(next, 0);
    if (!basis.add(std::move(next))) return std::nullopt;
  }
}

}  // namespace moptcore::inline v0::lowrank
