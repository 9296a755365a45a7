// SPDX-License-Identifier: Apache-2.0
#include "runtime/products.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/thread_scope.hpp>

#include "kernels/winograd.hpp"

namespace moptcore::inline v0::runtime {
namespace {

namespace onednn = kernels::onednn;
using kernels::Ending;
using onednn::Bound;
using onednn::Layout;
using onednn::Primitive;
using onednn::PrimitivePtr;

// Rows and panels that a thread takes at a time: their floats stay in the second cache.
constexpr std::int64_t kRows = 96;
constexpr std::int64_t kPanels = 8;

// The buffers of a run behind x and the weight.
Ending with_pointers(Ending end, void* const* buffers) {
  int next = 2;
  if (end.bias != nullptr) end.bias = static_cast<const float*>(buffers[next++]);
  if (end.addend != nullptr) end.addend = static_cast<const float*>(buffers[next]);
  return end;
}

int input_count(const Ending& end) {
  return 2 + (end.bias != nullptr ? 1 : 0) + (end.addend != nullptr ? 1 : 0);
}

class PanelProduct final : public Primitive {
 public:
  class Run final : public Bound {
   public:
    explicit Run(const PanelProduct& plan)
        : rows_(plan.rows),
          depth_(plan.depth),
          columns_(plan.columns),
          threads_(plan.threads),
          end_(plan.end) {}

    void run(void* const* buffers) override {
      const ThreadScope scope(threads_);
      const auto* x = static_cast<const float*>(buffers[0]);
      const auto* panels = static_cast<const float*>(buffers[1]);
      auto* output = static_cast<float*>(buffers[input_count(end_)]);
      const Ending whole = with_pointers(end_, buffers);
      const std::int64_t bands = block_count(rows_, kRows);
      const std::int64_t band = (block_count(rows_, bands) + 11) / 12 * 12;
      const std::int64_t across = block_count(kernels::panels_of(columns_), kPanels);
      parallel_for(bands * across, 1, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t task = first; task < last; ++task) {
          const std::int64_t row = task % bands * band;
          const std::int64_t rows = std::min(band, rows_ - row);
          if (rows <= 0) continue;
          const std::int64_t panel = task / bands * kPanels;
          Ending end = whole;
          if (end.addend != nullptr) end.addend += row * columns_;
          end.addend_stride = columns_;
          kernels::multiply_panels(rows, columns_, depth_, x + row * depth_, depth_, panels, panel,
                                   std::min(panel + kPanels, kernels::panels_of(columns_)), end,
                                   output + row * columns_, columns_);
        }
      });
    }

   private:
    std::int64_t rows_;
    std::int64_t depth_;
    std::int64_t columns_;
    int threads_;
    Ending end_;
  };

  [[nodiscard]] std::unique_ptr<Bound> bind() const override {
    return std::make_unique<Run>(*this);
  }

  std::int64_t rows = 0;
  std::int64_t depth = 0;
  std::int64_t columns = 0;
  int threads = 1;
  Ending end;
};

// Workspaces that threads borrow.
class Workspaces {
 public:
  Workspaces(float* memory, std::int64_t floats, int count)
      : memory_(memory), floats_(floats), taken_(static_cast<std::size_t>(count)) {}

  int borrow() {
    for (;;) {
      for (std::size_t i = 0; i < taken_.size(); ++i) {
        if (!taken_[i].test_and_set(std::memory_order_acquire)) return static_cast<int>(i);
      }
    }
  }
  void give_back(int index) {
    taken_[static_cast<std::size_t>(index)].clear(std::memory_order_release);
  }
  [[nodiscard]] float* at(int index) const { return memory_ + index * floats_; }

 private:
  float* memory_;
  std::int64_t floats_;
  std::vector<std::atomic_flag> taken_;
};

struct WinogradPlan {
  kernels::WinogradShape shape;
  std::int64_t tiles = 0;      // of the whole batch
  std::int64_t grain = 0;      // of them, for a thread at a time
  std::int64_t workspace = 0;  // floats
  int threads = 1;
  Ending end;
};

class Winograd final : public Primitive {
 public:
  class Run final : public Bound {
   public:
    explicit Run(const WinogradPlan& plan) : plan_(plan) {}

    void run(void* const* buffers) override {
      const auto* x = static_cast<const float*>(buffers[0]);
      const auto* packed = static_cast<const float*>(buffers[1]);
      const int inputs = input_count(plan_.end);
      auto* output = static_cast<float*>(buffers[inputs]);
      const Ending end = with_pointers(plan_.end, buffers);
      const ThreadScope scope(plan_.threads);
      Workspaces workspaces(static_cast<float*>(buffers[inputs + 1]), plan_.workspace,
                            plan_.threads);
      parallel_for(plan_.tiles, plan_.grain, [&](std::int64_t first, std::int64_t last) {
        const int own = workspaces.borrow();
        kernels::convolve_winograd(plan_.shape, first, last, x, packed, end, workspaces.at(own),
                                   output);
        workspaces.give_back(own);
      });
    }

   private:
    WinogradPlan plan_;
  };

  [[nodiscard]] std::unique_ptr<Bound> bind() const override { return std::make_unique<Run>(plan); }

  WinogradPlan plan;
};

// What both have behind x and the weight.
void add_ending(Primitive& primitive, std::int64_t columns, const Ending& end) {
  if (end.bias != nullptr) primitive.inputs.emplace_back(Shape{columns});
  if (end.addend != nullptr) primitive.inputs.push_back(primitive.output);
}

}  // namespace

PrimitivePtr panel_product(std::int64_t rows, std::int64_t depth, std::int64_t columns,
                           const Ending& end) {
  auto result = std::make_shared<PanelProduct>();
  result->rows = rows;
  result->depth = depth;
  result->columns = columns;
  result->threads = num_threads();
  result->end = end;
  result->inputs = {Layout(Shape{rows, depth}), Layout(Shape{columns, depth})};
  result->output = Layout(Shape{rows, columns});
  add_ending(*result, columns, end);
  result->name = "panels";
  return result;
}

Layout by_pixels(const Shape& shape) {
  return Layout(shape, Shape{shape[1] * shape[2] * shape[3], 1, shape[3] * shape[1], shape[1]});
}

bool is_winograd(const Shape& x, const onednn::ConvolutionShape& shape) {
  const auto all = [](const std::vector<std::int64_t>& values, std::int64_t value) {
    return std::ranges::all_of(values, [=](std::int64_t each) { return each == value; });
  };
  if (x.rank() != 4 || shape.transposed || shape.groups != 1 || shape.weight[2] != 3 ||
      shape.weight[3] != 3 || !all(shape.stride, 1) || !all(shape.dilation, 1)) {
    return false;
  }
  const std::int64_t channels = x[1];
  const std::int64_t outputs = shape.output[1];
  const std::int64_t tiles = x[0] * ((shape.output[2] + 1) / 2) * ((shape.output[3] + 1) / 2);
  // With few tiles for its many weights, reading those is all that counts.
  return channels % 8 == 0 && outputs % 8 == 0 && channels >= 32 && outputs >= 32 && tiles >= 24 &&
         tiles * 16 >= std::min(channels, outputs);
}

PrimitivePtr winograd_convolution(const Shape& x, const onednn::ConvolutionShape& shape,
                                  const Ending& end) {
  auto result = std::make_shared<Winograd>();
  WinogradPlan& plan = result->plan;
  plan.shape = {x[2],
                x[3],
                x[1],
                shape.output[1],
                shape.before[0],
                shape.before[1],
                shape.output[2],
                shape.output[3]};
  plan.tiles = x[0] * plan.shape.tiles();
  plan.threads = num_threads();
  // Values that stay in the second cache, and enough tiles to make reading the weights worth it.
  const std::int64_t both = plan.shape.channels + plan.shape.outputs;
  const std::int64_t most = std::max(16384 / both, std::min<std::int64_t>(128, both / 8));
  const std::int64_t blocks =
      std::max<std::int64_t>(block_count(plan.tiles, std::max<std::int64_t>(most, 24)),
                             std::min<std::int64_t>(plan.threads, plan.tiles / 12));
  plan.grain = block_count(plan.tiles, blocks);
  plan.workspace = (kernels::winograd_workspace(plan.shape, plan.grain) + 15) / 16 * 16;
  plan.end = end;
  result->inputs = {by_pixels(x), Layout(shape.weight)};
  result->output = by_pixels(shape.output);
  add_ending(*result, shape.output[1], end);
  result->scratch_bytes = 4 * plan.workspace * plan.threads;
  result->name = "winograd";
  return result;
}

}  // namespace moptcore::inline v0::runtime
