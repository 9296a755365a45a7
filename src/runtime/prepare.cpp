// SPDX-License-Identifier: Apache-2.0
#include "runtime/prepare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/thread_scope.hpp>

#include "runtime/products.hpp"

namespace moptcore::inline v0::runtime {
namespace {

namespace onednn = kernels::onednn;
using graph::ElementType;
using graph::Tensor;
using onednn::Layout;
using onednn::Post;
using onednn::PrimitivePtr;

// Beyond it sizes could overflow, and nothing real is so large.
constexpr std::int64_t kMostExtent = std::int64_t{1} << 30;

// Fewer are a matter of reading the weights, at which oneDNN is as good.
constexpr std::int64_t kOwnRows = 6;

// That fill no vector.
constexpr std::int64_t kFewChannels = 8;

using Numbers = std::vector<std::int64_t>;

struct Windows {
  Numbers kernel;
  Numbers stride;
  Numbers dilation;
  Numbers before;
  Numbers after;
  Numbers output;
};

// Elements of a tensor that oneDNN is asked to make; the loops name what is beyond their limit.
constexpr std::int64_t kMostElements = std::int64_t{1} << 36;

bool is_small(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) {
    if (extent > kMostExtent || extent > kMostElements / count) return false;
    count *= std::max<std::int64_t>(extent, 1);
  }
  return true;
}

class Preparing {
 public:
  Preparing(const Program& program, const Group& group, const std::vector<Cell>& cells)
      : program_(program),
        group_(group),
        cells_(cells),
        step_(program.steps[static_cast<std::size_t>(group.steps[0])]),
        node_(*step_.node) {}

  // Microseconds that one thread takes, roughly.
  double estimate() const {
    const Layout* x = layout(group_.x >= 0 ? group_.x : input(0));
    if (x == nullptr) return 0;
    double time = time_to_move(2 * x->bytes());
    const Layout* weight = layout(group_.weight);
    if (weight == nullptr) return time;
    time += time_to_move(weight->bytes());
    const auto elements = static_cast<double>(element_count(x->shape()));
    const auto factors = static_cast<double>(element_count(weight->shape()));
    if (group_.kind == Kind::convolution) {
      // Each pixel meets the weights; depthwise kernels reach a quarter of the speed.
      const auto groups = static_cast<double>(node_.get<std::int64_t>("group", 1));
      const double pixels =
          elements / static_cast<double>(x->shape().rank() > 1 ? x->shape()[1] : 1);
      double strides = 1;
      for (const std::int64_t each : node_.get<Numbers>("strides", {})) {
        strides *= static_cast<double>(std::max<std::int64_t>(each, 1));
      }
      time += 2 * pixels * factors / strides / (groups > 1 ? 15'000 : 60'000);
    } else if (group_.kind == Kind::inner_product || group_.kind == Kind::matmul) {
      const Shape& shape = weight->shape();
      const double columns =
          static_cast<double>(shape.rank() > 0 ? std::max(shape.back(), shape[0]) : 1);
      time += 2 * elements * columns / 60'000;
    }
    return time;
  }

  std::optional<Prepared> run() {
    if (group_.least_rank > 1) {
      const Layout* x = layout(group_.x);
      if (x == nullptr || x->shape().rank() < group_.least_rank) return std::nullopt;
    }
    switch (group_.kind) {
      case Kind::plain: return std::nullopt;
      case Kind::convolution: return convolution();
      case Kind::inner_product: return inner_product();
      case Kind::matmul: return matmul();
      case Kind::pool: return pool();
      case Kind::elementwise: return elementwise();
      case Kind::softmax: return softmax();
      case Kind::layer_norm: return layer_norm();
      case Kind::batch_norm: return batch_norm();
      case Kind::concat: return concat();
      case Kind::transpose: return transpose();
      case Kind::mean: return mean();
      case Kind::resample: return resample();
    }
    return std::nullopt;
  }

 private:
  const Cell& cell(int slot) const { return cells_[static_cast<std::size_t>(slot)]; }

  // The layout of a float32 tensor; null for all else.
  const Layout* layout(int slot) const {
    if (slot < 0) return nullptr;
    const Layout& found = cell(slot).layout;
    if (found.empty() || !is_small(found.shape()) || found.shape().rank() > 8) return nullptr;
    return &found;
  }

  // Integers that follow from shapes.
  std::optional<Numbers> integers(int slot) const {
    if (slot < 0 || !cell(slot).is_fixed || !cell(slot).value.is_tensor()) return std::nullopt;
    const Tensor& tensor = cell(slot).value.tensor();
    if (tensor.type() != ElementType::int64) return std::nullopt;
    const auto values = tensor.values<std::int64_t>();
    return Numbers(values.begin(), values.end());
  }

  int input(std::size_t index) const {
    return index < step_.inputs.size() ? step_.inputs[index] : -1;
  }

  // Kernel, stride, dilation and padding over the axes behind the second.
  std::optional<Windows> windows(const Shape& x, Numbers kernel, bool transposed) const {
    const auto axes = static_cast<std::size_t>(x.rank() - 2);
    const auto given = [&](const char* name, std::size_t count, std::int64_t fallback) {
      return node_.get<Numbers>(name, Numbers(count, fallback));
    };
    Windows w;
    w.kernel = std::move(kernel);
    w.stride = given("strides", axes, 1);
    w.dilation = given("dilations", axes, 1);
    const Numbers pads = given("pads", 2 * axes, 0);
    const auto automatic = node_.get<std::string>("auto_pad", "NOTSET");
    if (w.kernel.size() != axes || w.stride.size() != axes || w.dilation.size() != axes ||
        pads.size() != 2 * axes) {
      return std::nullopt;
    }
    for (std::size_t i = 0; i < axes; ++i) {
      const std::int64_t extent = x[static_cast<int>(i) + 2];
      std::int64_t first = pads[i];
      std::int64_t last = pads[axes + i];
      if (std::min({w.kernel[i], w.stride[i], w.dilation[i]}) < 1 ||
          std::max({w.kernel[i], w.stride[i], w.dilation[i], first, last}) > kMostExtent ||
          std::min(first, last) < 0) {
        return std::nullopt;
      }
      const std::int64_t reach = (w.kernel[i] - 1) * w.dilation[i] + 1;
      if (automatic == "VALID") {
        first = last = 0;
      } else if (automatic == "SAME_UPPER" || automatic == "SAME_LOWER") {
        if (transposed) return std::nullopt;
        const std::int64_t wanted = (extent + w.stride[i] - 1) / w.stride[i];
        const std::int64_t pad =
            std::max<std::int64_t>(0, (wanted - 1) * w.stride[i] + reach - extent);
        first = automatic == "SAME_UPPER" ? pad / 2 : pad - pad / 2;
        last = pad - first;
      } else if (automatic != "NOTSET") {
        return std::nullopt;
      }
      std::int64_t output = 0;
      if (transposed) {
        output = (extent - 1) * w.stride[i] + reach - first - last;
      } else {
        const std::int64_t room = extent + first + last - reach;
        if (room < 0) return std::nullopt;
        output = room / w.stride[i] + 1;
      }
      if (output < 1 || output > kMostExtent) return std::nullopt;
      // Windows of nothing but padding are beyond what its kernels are made for.
      if (std::max(first, last) >= reach) return std::nullopt;
      w.before.push_back(first);
      w.after.push_back(last);
      w.output.push_back(output);
    }
    return w;
  }

  // What the links do to a result; their operands are added to `result.operands` by `finish`.
  std::optional<std::vector<Post>> posts(const Shape& output, std::size_t first = 0) const {
    std::vector<Post> all;
    for (std::size_t i = first; i < group_.links.size(); ++i) {
      const Link& link = group_.links[i];
      Post post{link.algorithm, link.a, link.b, {}};
      if (link.operand >= 0) {
        const Layout* operand = layout(link.operand);
        if (operand == nullptr) return std::nullopt;
        const auto seen = widened(operand->shape(), output);
        if (!seen) return std::nullopt;
        post.operand = Layout(*seen);
      }
      all.push_back(std::move(post));
    }
    return all;
  }

  // A shape with leading 1s, where it can be repeated to `output`.
  static std::optional<Shape> widened(const Shape& shape, const Shape& output) {
    if (shape.rank() > output.rank()) return std::nullopt;
    Shape result;
    for (int axis = shape.rank(); axis < output.rank(); ++axis) result.push_back(1);
    for (const std::int64_t extent : shape) result.push_back(extent);
    for (int axis = 0; axis < output.rank(); ++axis) {
      if (result[axis] != 1 && result[axis] != output[axis]) return std::nullopt;
    }
    return result;
  }

  // The operands of links come last among the primitive's inputs.
  void add_link_operands(Prepared& result, std::size_t first = 0) const {
    std::size_t next = result.operands.size();
    for (std::size_t i = first; i < group_.links.size(); ++i) {
      if (group_.links[i].operand < 0) continue;
      const Layout& want = result.primitive->inputs[next++];
      result.operands.push_back({group_.links[i].operand, want, Layout(want.shape())});
    }
  }

  // The links as our own kernels end a product: a tensor of the result's shape is added, then a
  // range or a curve.
  std::optional<kernels::Ending> ending(const Shape& output, bool bias) const {
    static constexpr float kSomething = 0;
    kernels::Ending end;
    if (bias) end.bias = &kSomething;
    std::size_t next = 0;
    const auto& links = group_.links;
    if (next < links.size() && links[next].algorithm == onednn::Algorithm::add) {
      const Layout* operand = layout(links[next].operand);
      if (operand == nullptr || !(operand->shape() == output)) return std::nullopt;
      end.addend = &kSomething;
      ++next;
    }
    if (next < links.size()) {
      const Link& link = links[next++];
      end.clamps = true;
      if (link.algorithm == onednn::Algorithm::relu && link.a == 0) {
        end.high = std::numeric_limits<float>::infinity();
      } else if (link.algorithm == onednn::Algorithm::clip) {
        end.low = link.a;
        end.high = link.b;
      } else if (link.algorithm == onednn::Algorithm::gelu_erf) {
        end.clamps = false;
        end.curve = kernels::Ending::Curve::gelu;
      } else if (link.algorithm == onednn::Algorithm::gelu_tanh) {
        end.clamps = false;
        end.curve = kernels::Ending::Curve::tanh_gelu;
      } else {
        return std::nullopt;
      }
    }
    if (next < links.size()) return std::nullopt;
    return end;
  }

  void add_own_operands(Prepared& result, int x, const Layout& weight, Packing packing) const {
    result.operands.push_back({x, Layout(cell(x).layout.shape()), {}});
    result.operands.push_back({group_.weight, {}, weight, packing});
    std::size_t next = 2;
    if (group_.bias >= 0)
      result.operands.push_back({group_.bias, result.primitive->inputs[next++], {}});
    if (next < result.primitive->inputs.size()) {
      result.operands.push_back({group_.links[0].operand, result.primitive->inputs[next], {}});
    }
  }

  std::optional<Prepared> convolution() const {
    const Layout* x = layout(group_.x);
    const Layout* weight = layout(group_.weight);
    if (x == nullptr || weight == nullptr) return std::nullopt;
    const Shape& image = x->shape();
    const Shape& filter = weight->shape();
    if (image.rank() < 3 || image.rank() > 5 || filter.rank() != image.rank()) return std::nullopt;
    onednn::ConvolutionShape shape;
    shape.transposed = node_.op_type == "ConvTranspose";
    shape.weight = filter;
    shape.groups = node_.get<std::int64_t>("group", 1);
    if (shape.groups < 1 || shape.groups > image[1]) return std::nullopt;
    const std::int64_t channels = shape.transposed ? filter[0] : filter[1] * shape.groups;
    const std::int64_t outputs = shape.transposed ? filter[1] * shape.groups : filter[0];
    if (channels != image[1] || channels % shape.groups != 0 || outputs % shape.groups != 0) {
      return std::nullopt;
    }
    const Numbers kernel(filter.begin() + 2, filter.end());
    if (node_.get<Numbers>("kernel_shape", kernel) != kernel) return std::nullopt;
    auto w = windows(image, kernel, shape.transposed);
    if (!w) return std::nullopt;
    if (shape.transposed) {
      if (node_.find("output_shape") != nullptr) return std::nullopt;
      const auto extra = node_.get<Numbers>("output_padding", Numbers(kernel.size(), 0));
      if (extra.size() != kernel.size()) return std::nullopt;
      for (std::size_t i = 0; i < extra.size(); ++i) {
        if (extra[i] < 0 || extra[i] > w->after[i]) return std::nullopt;
        w->after[i] -= extra[i];
        w->output[i] += extra[i];
      }
    }
    shape.output = {image[0], outputs};
    for (const std::int64_t extent : w->output) shape.output.push_back(extent);
    if (!is_small(shape.output)) return std::nullopt;
    shape.stride = w->stride;
    shape.dilation = w->dilation;
    shape.before = w->before;
    shape.after = w->after;
    const Layout* bias = layout(group_.bias);
    if (group_.bias >= 0 && (bias == nullptr || !(bias->shape() == Shape{outputs}))) {
      return std::nullopt;
    }
    const auto after = posts(shape.output);
    if (!after) return std::nullopt;
    Prepared result;
    if (program_.is_constant(group_.weight) && is_winograd(image, shape)) {
      if (const auto end = ending(shape.output, bias != nullptr);
          end && end->curve == kernels::Ending::Curve::none) {
        result.primitive = winograd_convolution(image, shape, *end);
        add_own_operands(result, group_.x, Layout(filter), Packing::winograd);
        result.operands[0].want = result.primitive->inputs[0];
        result.output = result.primitive->output;
        return result;
      }
    }
    if (image.rank() == 3 && shape.groups > 1 && !shape.transposed) {
      if (auto flat = flat_convolution(*x, shape, *after)) return flat;
    }
    if (is_column(image, shape)) {
      if (auto turned = turned_convolution(*x, shape, *after)) return turned;
    }
    return convolution_seen(*x, shape, *after, [](const Layout& own) { return own; });
  }

  // A convolution of x, which the primitive sees otherwise than the graph: `as_graph` says how a
  // layout of the primitive's looks there. The weight's elements lie as they did.
  template <class View>
  std::optional<Prepared> convolution_seen(const Layout& x, const onednn::ConvolutionShape& shape,
                                           const std::vector<Post>& posts, View&& as_graph) const {
    const bool bias = group_.bias >= 0;
    Prepared result;
    result.primitive = onednn::convolution(x, shape, bias, posts);
    if (result.primitive == nullptr) return std::nullopt;
    const auto& inputs = result.primitive->inputs;
    result.operands.push_back({group_.x, as_graph(inputs[0]), {}});
    result.operands.push_back({group_.weight, inputs[1], onednn::grouped_weight(shape)});
    if (bias) result.operands.push_back({group_.bias, inputs[2], {}});
    add_link_operands(result);
    result.output = as_graph(result.primitive->output);
    return result;
  }

  // Signals in groups: what is fast is made for images.
  std::optional<Prepared> flat_convolution(const Layout& x, onednn::ConvolutionShape shape,
                                           const std::vector<Post>& posts) const {
    for (const Post& post : posts) {
      if (!post.operand.empty()) return std::nullopt;
    }
    shape.weight = {shape.weight[0], shape.weight[1], 1, shape.weight[2]};
    shape.output = {shape.output[0], shape.output[1], 1, shape.output[2]};
    for (auto* each : {&shape.stride, &shape.dilation}) each->insert(each->begin(), 1);
    for (auto* each : {&shape.before, &shape.after}) each->insert(each->begin(), 0);
    return convolution_seen(Layout(x.shape()).with_axis(2), shape, posts,
                            [](const Layout& own) { return own.without_axis(2); });
  }

  // An image one pixel wide: kernels run along rows, so it is turned by 90 degrees, which moves
  // nothing in memory.
  static bool is_column(const Shape& image, const onednn::ConvolutionShape& shape) {
    return image.rank() == 4 && image[3] == 1 && image[2] > 1 && shape.output[3] == 1 &&
           shape.weight[3] == 1 && shape.before[1] == 0 && shape.after[1] == 0;
  }

  std::optional<Prepared> turned_convolution(const Layout& x, onednn::ConvolutionShape shape,
                                             const std::vector<Post>& posts) const {
    // Operands that are neither a number nor one per channel would have to be turned too.
    for (const Post& post : posts) {
      if (post.operand.empty()) continue;
      const Shape& own = post.operand.shape();
      if (own[2] != 1 || own[3] != 1) return std::nullopt;
    }
    constexpr std::array<int, 4> kTurn = {0, 1, 3, 2};
    std::swap(shape.weight[2], shape.weight[3]);
    std::swap(shape.output[2], shape.output[3]);
    for (auto* pair : {&shape.stride, &shape.dilation, &shape.before, &shape.after}) {
      std::swap((*pair)[0], (*pair)[1]);
    }
    return convolution_seen(x.transposed(kTurn), shape, posts,
                            [&](const Layout& own) { return own.transposed(kTurn); });
  }

  std::optional<Prepared> inner_product() const {
    const Layout* x = layout(group_.x);
    const Layout* weight = layout(group_.weight);
    if (x == nullptr || weight == nullptr || x->shape().rank() < 2) return std::nullopt;
    const bool by_rows = node_.op_type == "Gemm" && node_.get<std::int64_t>("transB", 0) != 0;
    if (node_.op_type == "Gemm" && x->shape().rank() != 2) return std::nullopt;
    const Shape& stored = weight->shape();
    const std::int64_t depth = stored[by_rows ? 1 : 0];
    const std::int64_t columns = stored[by_rows ? 0 : 1];
    if (x->shape().back() != depth) return std::nullopt;
    const std::int64_t rows = element_count(x->shape()) / depth;
    if (rows > kMostExtent) return std::nullopt;
    Shape output = x->shape();
    output[output.rank() - 1] = columns;
    if (!is_small(output)) return std::nullopt;
    std::vector<Post> after;
    for (const Link& link : group_.links) {
      Post post{link.algorithm, link.a, link.b, {}};
      if (link.operand >= 0) {
        const Layout* operand = layout(link.operand);
        if (operand == nullptr) return std::nullopt;
        const Shape& shape = operand->shape();
        if (!widened(shape, output)) return std::nullopt;
        const std::int64_t count = element_count(shape);
        if (shape == output) post.operand = Layout(Shape{rows, columns});
        else if (count == 1) post.operand = Layout(Shape{1, 1});
        else if (count == columns && shape.back() == columns) {
          post.operand = Layout(Shape{1, columns});
        } else {
          return std::nullopt;
        }
      }
      after.push_back(std::move(post));
    }
    Prepared result;
    const Shape matrix{columns, depth};
    const Layout source = by_rows ? Layout(matrix) : Layout(matrix, Shape{1, columns});
    if (rows >= kOwnRows && program_.is_constant(group_.weight)) {
      if (auto end = ending(output, group_.bias >= 0); end) {
        result.primitive = panel_product(rows, depth, columns, *end);
        add_own_operands(result, group_.x, source, Packing::panels);
        result.output = Layout(output);
        return result;
      }
    }
    result.primitive =
        onednn::inner_product(Layout(Shape{rows, depth}), matrix, group_.bias >= 0, after);
    if (result.primitive == nullptr) return std::nullopt;
    const auto& inputs = result.primitive->inputs;
    result.operands.push_back({group_.x, Layout(x->shape()), {}});
    result.operands.push_back({group_.weight, inputs[1], source});
    if (group_.bias >= 0) result.operands.push_back({group_.bias, inputs[2], {}});
    add_link_operands(result);
    result.output = Layout(output);
    return result;
  }

  // A matrix or a stack of them as matmul reads it: with leading 1s, strided where one of the last
  // two axes is contiguous.
  static std::optional<Layout> matrices(const Layout& from, int rank, Layout& want) {
    const Shape& shape = from.shape();
    want = Layout(shape);
    if (from.is_strided()) {
      const Shape steps = from.strides();
      if (steps[shape.rank() - 1] == 1 || steps[shape.rank() - 2] == 1) want = from;
    }
    const Shape steps = want.strides();
    Shape wide;
    Shape wide_steps;
    for (int axis = shape.rank(); axis < rank; ++axis) {
      wide.push_back(1);
      wide_steps.push_back(element_count(shape));
    }
    for (int axis = 0; axis < shape.rank(); ++axis) {
      wide.push_back(shape[axis]);
      wide_steps.push_back(steps[axis]);
    }
    return Layout(wide, wide_steps);
  }

  std::optional<Prepared> matmul() const {
    const Layout* a = layout(group_.x);
    const Layout* b = layout(group_.weight);
    if (a == nullptr || b == nullptr || node_.op_type != "MatMul") return std::nullopt;
    const int rank = std::max(a->shape().rank(), b->shape().rank());
    if (std::min(a->shape().rank(), b->shape().rank()) < 2) return std::nullopt;
    Layout want_a;
    Layout want_b;
    const auto left = matrices(*a, rank, want_a);
    const auto right = matrices(*b, rank, want_b);
    Shape output;
    for (int axis = 0; axis < rank - 2; ++axis) {
      const std::int64_t m = left->shape()[axis];
      const std::int64_t n = right->shape()[axis];
      if (m != n && m != 1 && n != 1) return std::nullopt;
      output.push_back(std::max(m, n));
    }
    if (left->shape()[rank - 1] != right->shape()[rank - 2]) return std::nullopt;
    output.push_back(left->shape()[rank - 2]);
    output.push_back(right->shape()[rank - 1]);
    if (!is_small(output)) return std::nullopt;
    const auto after = posts(output);
    if (!after) return std::nullopt;
    Prepared result;
    result.output = Layout(output);
    Layout stored = result.output;
    if (!group_.order.empty()) {
      if (static_cast<int>(group_.order.size()) != rank) return std::nullopt;
      Shape turned;
      for (const int axis : group_.order) turned.push_back(output[axis]);
      result.output = Layout(turned);
      std::vector<int> back(group_.order.size());
      for (int axis = 0; axis < rank; ++axis) {
        back[static_cast<std::size_t>(group_.order[static_cast<std::size_t>(axis)])] = axis;
      }
      stored = result.output.transposed(back);
    }
    result.primitive = onednn::matmul(*left, *right, stored, *after);
    if (result.primitive == nullptr) return std::nullopt;
    result.operands.push_back({group_.x, want_a, {}});
    result.operands.push_back({group_.weight, want_b, {}});
    add_link_operands(result);
    return result;
  }

  std::optional<Prepared> pool() const {
    const Layout* x = layout(group_.x);
    if (x == nullptr || x->shape().rank() < 3 || x->shape().rank() > 5) return std::nullopt;
    const Shape& image = x->shape();
    onednn::PoolShape shape;
    const bool global = node_.op_type.starts_with("Global");
    shape.maximum = node_.op_type.ends_with("MaxPool");
    shape.output = {image[0], image[1]};
    if (global) {
      for (int axis = 2; axis < image.rank(); ++axis) {
        shape.kernel.push_back(image[axis]);
        shape.output.push_back(1);
      }
      shape.stride.assign(shape.kernel.size(), 1);
      shape.dilation = shape.stride;
      shape.before.assign(shape.kernel.size(), 0);
      shape.after = shape.before;
    } else {
      auto w = windows(image, node_.get<Numbers>("kernel_shape", {}), false);
      if (!w) return std::nullopt;
      shape.count_padding = node_.get<std::int64_t>("count_include_pad", 0) != 0;
      if (node_.get<std::int64_t>("ceil_mode", 0) != 0 && !round_up(image, *w)) {
        return std::nullopt;
      }
      shape.kernel = w->kernel;
      shape.stride = w->stride;
      shape.dilation = w->dilation;
      shape.before = w->before;
      shape.after = w->after;
      for (const std::int64_t extent : w->output) shape.output.push_back(extent);
    }
    if (!is_small(shape.output)) return std::nullopt;
    const auto make = [&](const Layout& from) { return onednn::pool(from, shape); };
    auto result = with_either_layout(*x, make);
    // Its loops over rows are slow: channels side by side are worth a copy.
    if (result && x->is_row_major() && image[1] >= kFewChannels &&
        result->primitive->name.starts_with("simple")) {
      const auto better = with_either_layout(channels_last(image), make);
      if (better && !better->primitive->name.starts_with("simple")) return better;
    }
    return result;
  }

  static Layout channels_last(const Shape& image) {
    Shape strides = image;
    std::int64_t step = image[1];
    for (int axis = image.rank() - 1; axis >= 2; --axis) {
      strides[axis] = step;
      step *= image[axis];
    }
    strides[0] = step;
    strides[1] = 1;
    return Layout(image, strides);
  }

  // Where the last window begins inside the padded image, it counts although it reaches beyond.
  bool round_up(const Shape& image, Windows& w) const {
    if (node_.get<std::string>("auto_pad", "NOTSET") != "NOTSET") return false;
    for (std::size_t i = 0; i < w.kernel.size(); ++i) {
      const std::int64_t extent = image[static_cast<int>(i) + 2];
      const std::int64_t reach = (w.kernel[i] - 1) * w.dilation[i] + 1;
      const std::int64_t room = extent + w.before[i] + w.after[i] - reach;
      if (room % w.stride[i] == 0) continue;
      if (w.output[i] * w.stride[i] >= extent + w.before[i]) continue;
      if (node_.op_type == "AveragePool") return false;
      w.output[i] += 1;
      w.after[i] = (w.output[i] - 1) * w.stride[i] + reach - extent - w.before[i];
    }
    return true;
  }

  // A primitive of one input: as it lies, or row by row.
  template <class Make>
  std::optional<Prepared> with_either_layout(const Layout& x, Make&& make) const {
    Prepared result;
    Layout from = x;
    result.primitive = make(from);
    if (result.primitive == nullptr && !x.is_row_major()) {
      from = Layout(x.shape());
      result.primitive = make(from);
    }
    if (result.primitive == nullptr) return std::nullopt;
    result.operands.push_back({group_.x, from, {}});
    result.output = result.primitive->output;
    return result;
  }

  std::optional<Prepared> elementwise() const {
    int first = group_.x;
    const Layout* x = layout(first);
    if (x == nullptr) return std::nullopt;
    Group swapped = group_;
    const Link& link = group_.links[0];
    if (link.operand >= 0) {
      const Layout* operand = layout(link.operand);
      if (operand == nullptr) return std::nullopt;
      const bool fits = widened(operand->shape(), x->shape()).has_value();
      if (!fits) {
        const bool commutes = link.algorithm != onednn::Algorithm::subtract &&
                              link.algorithm != onednn::Algorithm::divide;
        if (!commutes || !widened(x->shape(), operand->shape())) return std::nullopt;
        swapped.x = link.operand;
        swapped.links[0].operand = group_.x;
      } else if (x->is_row_major() && !operand->is_row_major() && operand->shape() == x->shape() &&
                 link.algorithm != onednn::Algorithm::subtract &&
                 link.algorithm != onednn::Algorithm::divide) {
        swapped.x = link.operand;
        swapped.links[0].operand = group_.x;
      }
    }
    return Preparing(program_, swapped, cells_).elementwise_of(*layout(swapped.x));
  }

  std::optional<Prepared> elementwise_of(const Layout& x) const {
    for (const Layout& from : {x, Layout(x.shape())}) {
      auto all = posts(from.shape());
      if (!all) return std::nullopt;
      for (Post& post : *all) {
        if (is_binary(post.algorithm) && post.operand.shape() == from.shape()) post.operand = from;
      }
      Prepared result;
      result.primitive = onednn::elementwise(from, *all);
      if (result.primitive == nullptr) continue;
      result.operands.push_back({group_.x, from, {}});
      add_link_operands(result);
      result.output = from;
      return result;
    }
    return std::nullopt;
  }

  std::optional<Prepared> softmax() const {
    const Layout* x = layout(group_.x);
    if (x == nullptr || x->shape().rank() < 1) return std::nullopt;
    const int rank = x->shape().rank();
    std::int64_t axis = node_.get<std::int64_t>("axis", step_.version < 13 ? 1 : -1);
    if (axis < -rank || axis >= rank) return std::nullopt;
    if (axis < 0) axis += rank;
    if (step_.version < 13) {
      for (int after = static_cast<int>(axis) + 1; after < rank; ++after) {
        if (x->shape()[after] != 1) return std::nullopt;
      }
    }
    return with_either_layout(*x, [&](const Layout& from) {
      return onednn::softmax(from, static_cast<int>(axis), node_.op_type == "LogSoftmax");
    });
  }

  std::optional<Prepared> layer_norm() const {
    const Layout* x = layout(group_.x);
    const Layout* scale = layout(group_.weight);
    const Layout* bias = layout(group_.bias);
    if (x == nullptr || scale == nullptr || x->shape().rank() < 2) return std::nullopt;
    const int rank = x->shape().rank();
    const std::int64_t axis = node_.get<std::int64_t>("axis", -1);
    const Shape vector{x->shape().back()};
    if ((axis != -1 && axis != rank - 1) || !(scale->shape() == vector) ||
        (group_.bias >= 0 && (bias == nullptr || !(bias->shape() == vector)))) {
      return std::nullopt;
    }
    Prepared result;
    const std::int64_t rows = element_count(x->shape()) / vector[0];
    result.primitive = onednn::layer_norm(Layout(Shape{rows, vector[0]}),
                                          node_.get<float>("epsilon", 1e-5f), bias != nullptr);
    if (result.primitive == nullptr) return std::nullopt;
    result.operands.push_back({group_.x, Layout(x->shape()), {}});
    result.operands.push_back({group_.weight, Layout(vector), {}});
    if (bias != nullptr) result.operands.push_back({group_.bias, Layout(vector), {}});
    result.output = Layout(x->shape());
    return result;
  }

  std::optional<Prepared> batch_norm() const {
    const Layout* x = layout(group_.x);
    if (x == nullptr || x->shape().rank() < 2 || x->shape().rank() > 5 ||
        step_.inputs.size() != 5 || node_.get<std::int64_t>("training_mode", 0) != 0) {
      return std::nullopt;
    }
    const Shape vector{x->shape()[1]};
    for (std::size_t i = 1; i < 5; ++i) {
      const Layout* each = layout(input(i));
      if (each == nullptr || !(each->shape() == vector)) return std::nullopt;
    }
    auto result = with_either_layout(*x, [&](const Layout& from) {
      return onednn::batch_norm(from, node_.get<float>("epsilon", 1e-5f), !group_.links.empty());
    });
    if (!result) return std::nullopt;
    for (std::size_t i = 1; i < 5; ++i) result->operands.push_back({input(i), Layout(vector), {}});
    return result;
  }

  std::optional<Prepared> concat() const {
    const Layout* first = layout(input(0));
    if (first == nullptr || step_.inputs.size() < 2) return std::nullopt;
    const int rank = first->shape().rank();
    std::int64_t axis = node_.get<std::int64_t>("axis", rank);
    if (axis < -rank || axis >= rank) return std::nullopt;
    if (axis < 0) axis += rank;
    std::vector<Layout> layouts;
    for (const int slot : step_.inputs) {
      const Layout* each = layout(slot);
      if (each == nullptr || each->shape().rank() != rank) return std::nullopt;
      for (int other = 0; other < rank; ++other) {
        if (other != axis && each->shape()[other] != first->shape()[other]) return std::nullopt;
      }
      layouts.push_back(*each);
    }
    Prepared result;
    result.primitive = onednn::concat(layouts, static_cast<int>(axis));
    if (result.primitive == nullptr) return std::nullopt;
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      result.operands.push_back({step_.inputs[i], layouts[i], {}});
    }
    result.output = result.primitive->output;
    return result;
  }

  std::optional<Prepared> transpose() const {
    const Layout* x = layout(group_.x);
    if (x == nullptr || x->shape().rank() < 1) return std::nullopt;
    const int rank = x->shape().rank();
    Numbers order(static_cast<std::size_t>(rank));
    std::iota(order.rbegin(), order.rend(), 0);
    order = node_.get<Numbers>("perm", order);
    std::vector<int> axes;
    std::vector<bool> seen(static_cast<std::size_t>(rank), false);
    for (const std::int64_t axis : order) {
      if (axis < 0 || axis >= rank || seen[static_cast<std::size_t>(axis)]) return std::nullopt;
      seen[static_cast<std::size_t>(axis)] = true;
      axes.push_back(static_cast<int>(axis));
    }
    if (static_cast<int>(axes.size()) != rank) return std::nullopt;
    Prepared result;
    const Layout from = x->is_strided() && x->is_dense() ? *x : Layout(x->shape());
    result.operands.push_back({group_.x, from, {}});
    result.output = from.transposed(axes);
    return result;
  }

  std::optional<Prepared> mean() const {
    const Layout* x = layout(group_.x);
    if (x == nullptr) return std::nullopt;
    const int rank = x->shape().rank();
    Numbers axes;
    if (step_.version >= 18 && input(1) >= 0) {
      const auto given = integers(input(1));
      if (!given) return std::nullopt;
      axes = *given;
    } else {
      axes = node_.get<Numbers>("axes", {});
    }
    if (axes.empty()) return std::nullopt;
    Shape output = x->shape();
    for (std::int64_t axis : axes) {
      if (axis < -rank || axis >= rank) return std::nullopt;
      output[static_cast<int>(axis < 0 ? axis + rank : axis)] = 1;
    }
    if (output == x->shape()) return std::nullopt;
    auto result =
        with_either_layout(*x, [&](const Layout& from) { return onednn::mean(from, output); });
    if (!result) return std::nullopt;
    if (node_.get<std::int64_t>("keepdims", 1) == 0) {
      if (!result->output.is_row_major()) return std::nullopt;
      Shape squeezed;
      for (int axis = 0; axis < rank; ++axis) {
        const bool reduced = std::ranges::any_of(
            axes, [&](std::int64_t each) { return (each < 0 ? each + rank : each) == axis; });
        if (!reduced) squeezed.push_back(x->shape()[axis]);
      }
      result->output = Layout(squeezed);
    }
    return result;
  }

  // Only what means the same in oneDNN: linear between centres of pixels, and nearest by whole
  // factors, where all ways to count agree.
  std::optional<Prepared> resample() const {
    const Layout* x = layout(group_.x);
    if (x == nullptr || x->shape().rank() < 3 || x->shape().rank() > 5) return std::nullopt;
    const int rank = x->shape().rank();
    const Shape& image = x->shape();
    const bool old = node_.op_type == "Upsample" || step_.version < 11;
    const auto mode = node_.get<std::string>("mode", "nearest");
    const auto count =
        node_.get<std::string>("coordinate_transformation_mode", old ? "asymmetric" : "half_pixel");
    const auto rounding =
        node_.get<std::string>("nearest_mode", old ? "floor" : "round_prefer_floor");
    if (node_.find("axes") != nullptr || node_.get<std::int64_t>("antialias", 0) != 0 ||
        node_.get<std::string>("keep_aspect_ratio_policy", "stretch") != "stretch") {
      return std::nullopt;
    }
    Shape output;
    const int scales = input(old ? 1 : 2);
    if (const auto sizes = integers(input(3))) {
      if (static_cast<int>(sizes->size()) != rank) return std::nullopt;
      output = Shape(std::span<const std::int64_t>(*sizes));
    } else {
      if (scales < 0 || !cell(scales).is_fixed || !cell(scales).value.is_tensor()) {
        return std::nullopt;
      }
      const Tensor& factors = cell(scales).value.tensor();
      if (factors.type() != ElementType::float32 || factors.size() != rank) return std::nullopt;
      for (int axis = 0; axis < rank; ++axis) {
        const float factor = factors.data<float>()[axis];
        const float extent = factor * static_cast<float>(image[axis]);
        if (!(extent >= 1 && extent < 1e6f) || extent != std::floor(extent)) return std::nullopt;
        output.push_back(static_cast<std::int64_t>(extent));
      }
    }
    if (output[0] != image[0] || output[1] != image[1] || !is_small(output)) return std::nullopt;
    for (int axis = 2; axis < rank; ++axis) {
      if (output[axis] < 1) return std::nullopt;
      if (mode == "nearest" && output[axis] % image[axis] != 0) return std::nullopt;
    }
    if (mode == "nearest") {
      const bool same = (count == "asymmetric" && rounding == "floor") ||
                        (count == "half_pixel" && rounding.starts_with("round"));
      if (!same) return std::nullopt;
    } else if (mode != "linear" || count != "half_pixel") {
      return std::nullopt;
    }
    return with_either_layout(
        *x, [&](const Layout& from) { return onednn::resample(from, output, mode == "linear"); });
  }

  const Program& program_;
  const Group& group_;
  const std::vector<Cell>& cells_;
  const Step& step_;
  const graph::Node& node_;
};

}  // namespace

std::optional<Prepared> prepare(const Program& program, const Group& group,
                                const std::vector<Cell>& cells) {
  Preparing preparing(program, group, cells);
  if (num_threads() == 1 || preparing.estimate() >= kSerial) return preparing.run();
  const ThreadScope scope(1);
  const onednn::Threads one(1);
  auto result = preparing.run();
  if (result) result->is_serial = true;
  return result;
}

}  // namespace moptcore::inline v0::runtime
