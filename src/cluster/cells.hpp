// SPDX-License-Identifier: Apache-2.0
// Very many values as few: how many lie in each of the cells that their range is divided into, and
// their mean. Cells can be divided further, each time in one pass over the values.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include <moptcore/core/tensor_view.hpp>

namespace moptcore::inline v0::cluster {

struct Cell {
  double low = 0.0;  // all its values lie in [low, high]
  double high = 0.0;
  double mean = 0.0;
  std::int64_t count = 0;
  double shift = 0.0;  // values count as if moved by up to this much
};

class Cells {
 public:
  /// Of elements [first, first + n) of a tensor, or of those that are not zero.
  Cells(const AnyView& tensor, std::int64_t first, std::int64_t n, bool without_zeros);

  /// False where a value is not finite, or where the values span no range that can be divided.
  [[nodiscard]] bool usable() const noexcept { return usable_; }
  /// Zeros were met; without_zeros they are in no cell.
  [[nodiscard]] bool has_zero() const noexcept { return has_zero_; }

  /// Those that hold values, in ascending order.
  [[nodiscard]] const std::vector<Cell>& cells() const noexcept { return cells_; }

  /// Divides the cells at these positions of cells(), ascending, into about so many parts each.
  void divide(const std::vector<std::int64_t>& positions, const std::vector<std::int64_t>& parts);

  /// Cells that the range is divided into at first.
  static constexpr int kRootBits = 15;

 private:
  struct Leaf {
    std::int64_t count = 0;
    double sum = 0.0;  // of distances to the node's low
    double min = std::numeric_limits<double>::infinity();
    double max = -std::numeric_limits<double>::infinity();
  };
  // A divided cell.
  struct Node {
    double low = 0.0;
    double scale = 0.0;
    std::vector<Leaf> leaves;
    std::vector<std::int32_t> children;  // of each leaf the node that divides it, or -1
  };
  struct Place {
    std::int32_t node;  // -1: the root
    std::int32_t leaf;
  };

  template <class T>
  void find_range();
  template <class T>
  void count_root();
  template <class T>
  void count_nodes(std::int32_t first_node);
  void collect();
  void collect(std::int32_t node);

  AnyView tensor_;
  std::int64_t first_;
  std::int64_t n_;
  bool without_zeros_;
  bool usable_ = false;
  bool has_zero_ = false;
  double low_ = 0.0;
  double step_ = 0.0;   // of the whole numbers that root places are
  double scale_ = 0.0;  // 1 / step_
  std::vector<std::int64_t> root_counts_;
  std::vector<double> root_sums_;  // of the places within a cell
  std::vector<std::int32_t> root_children_;
  std::vector<Node> nodes_;
  std::vector<Cell> cells_;
  std::vector<Place> places_;  // of cells_
};

}  // namespace moptcore::inline v0::cluster
