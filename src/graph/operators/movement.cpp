// SPDX-License-Identifier: Apache-2.0
// Operators that copy elements to other places.
#include <numeric>

#include <moptcore/graph/operator.hpp>
#include "graph/operators/moving.hpp"

namespace moptcore::inline v0::graph {
namespace {

using Integers = std::vector<std::int64_t>;

// Output 0 with these extents, read from `data` at `offset` in steps of `from`.
void copy_out(Call& call, const Tensor& data, const Shape& extents, const Shape& from,
              std::int64_t offset = 0) {
  Tensor& out = call.output(0, data.type(), extents);
  if (out.size() == 0) return;
  visit_units(call, data.type(), [&]<class T>() {
    copy_rows<T>(mutable_units<T>(out), extents, units<T>(data) + offset, from);
  });
}

// Strides of elements that are there; all 0 of a tensor without elements, whose products of
// extents may not fit in 63 bits.
Shape strides_of(const Tensor& tensor) {
  if (tensor.size() > 0) return contiguous_strides(tensor.shape());
  Shape none = tensor.shape();
  for (int axis = 0; axis < none.rank(); ++axis) none[axis] = 0;
  return none;
}

void transpose(Call& call) {
  const Tensor& data = call.input(0);
  const int rank = data.rank();
  std::vector<int> order(static_cast<std::size_t>(rank));
  if (call.node().find("perm") == nullptr) {
    std::iota(order.rbegin(), order.rend(), 0);
  } else {
    order = axes_of(call, call.required<Integers>("perm"), rank);
    call.require(static_cast<int>(order.size()) == rank, "perm must name every axis, axes",
                 order.size());
  }
  const Shape strides = strides_of(data);
  Shape extents = data.shape();
  Shape from = data.shape();
  bool moves = false;
  int last = -1;
  for (int axis = 0; axis < rank; ++axis) {
    extents[axis] = data.shape()[order[axis]];
    from[axis] = strides[order[axis]];
    if (extents[axis] == 1) continue;
    moves = moves || order[axis] < last;
    last = order[axis];
  }
  if (!moves) return call.set(0, data.reshaped(extents));
  copy_out(call, data, extents, from);
}

void expand(Call& call) {
  const Tensor& data = call.input(0);
  const Shape wanted(std::span<const std::int64_t>(call.integers(1)));
  const int rank = std::max(data.rank(), wanted.rank());
  const Shape strides = strides_of(data);
  Shape extents;
  Shape from;
  for (int axis = 0; axis < rank; ++axis) {
    const int own = axis - (rank - data.rank());
    const int other = axis - (rank - wanted.rank());
    const std::int64_t a = own < 0 ? 1 : data.shape()[own];
    const std::int64_t b = other < 0 ? 1 : wanted[other];
    call.require(b >= 0 && (a == b || a == 1 || b == 1),
                 "shape must agree with the input or one of them be 1, shape", wanted);
    extents.push_back(a == 1 ? b : a);
    from.push_back(a == 1 ? 0 : strides[own]);
  }
  if (element_count(extents) == data.size()) return call.set(0, data.reshaped(extents));
  copy_out(call, data, extents, from);
}

void concat(Call& call) {
  std::vector<Tensor> parts;
  for (int i = 0; i < call.input_count(); ++i) parts.push_back(call.input(i));
  const std::int64_t axis = call.version() < 4 ? call.attribute<std::int64_t>("axis", 1)
                                               : call.required<std::int64_t>("axis");
  call.set(0, concatenated(call, parts, axis));
}

void split(Call& call) {
  const Tensor& data = call.input(0);
  const int axis = axis_of(call, call.attribute<std::int64_t>("axis", 0), data.rank());
  const std::int64_t extent = data.shape()[axis];
  const std::int64_t count = call.output_count();
  Integers sizes;
  const bool input = call.version() >= 13 || call.version() < 2;
  if (input && call.has(1)) sizes = call.integers(1);
  else if (call.version() < 13) sizes = call.attribute<Integers>("split", {});
  if (sizes.empty() && !(input && call.has(1))) {
    const std::int64_t parts = call.attribute<std::int64_t>("num_outputs", count);
    call.require(parts == count && count > 0, "num_outputs must be the number of outputs", parts);
    call.require(call.version() >= 18 || extent % count == 0,
                 "the axis must divide into as many equal parts as outputs, extent", extent);
    const std::int64_t part = extent / count + (extent % count != 0);
    for (std::int64_t i = 0; i < count; ++i) {
      sizes.push_back(std::clamp<std::int64_t>(extent - i * part, 0, part));
    }
  }
  call.require(static_cast<std::int64_t>(sizes.size()) == count,
               "split must have a size for each output, sizes", sizes.size());
  std::int64_t sum = 0;
  for (const std::int64_t part : sizes) {
    call.require(part >= 0, "split must hold sizes >= 0", part);
    sum = checked_sum(call, sum, part);
  }
  call.require(sum == extent, "split must add up to the extent of the axis", sum);
  const Around all = around(data.shape(), axis);
  std::int64_t start = 0;
  for (int i = 0; i < count; ++i) {
    Shape extents = data.shape();
    extents[axis] = sizes[i];
    if (call.wants(i)) {
      Tensor& out = call.output(i, data.type(), extents);
      const std::int64_t run = out.size() == 0 ? 0 : sizes[i] * all.inner;
      if (run > 0) {
        visit_units(call, data.type(), [&]<class T>() {
          const StridedAxis axes[] = {{all.outer, all.extent * all.inner, run}, {run, 1, 1}};
          copy_strided<T>(mutable_units<T>(out), units<T>(data) + start * all.inner, axes);
        });
      }
    }
    start += sizes[i];
  }
}

void slice(Call& call) {
  const Tensor& data = call.input(0);
  Integers starts;
  Integers ends;
  Integers axes;
  Integers steps;
  bool named = false;
  if (call.version() < 10) {
    starts = call.required<Integers>("starts");
    ends = call.required<Integers>("ends");
    named = call.node().find("axes") != nullptr;
    axes = call.attribute<Integers>("axes", {});
  } else {
    starts = call.integers(1);
    ends = call.integers(2);
    named = call.has(3);
    if (named) axes = call.integers(3);
    if (call.has(4)) steps = call.integers(4);
  }
  if (!named) {
    axes.resize(starts.size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  call.require(ends.size() == starts.size() && axes.size() == starts.size() &&
                   (steps.empty() || steps.size() == starts.size()),
               "starts, ends, axes and steps must be as many, starts", starts.size());
  const std::vector<int> order = axes_of(call, axes, data.rank());
  Shape extents = data.shape();
  Shape from = strides_of(data);
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const int axis = order[i];
    const std::int64_t extent = data.shape()[axis];
    std::int64_t step = steps.empty() ? 1 : steps[i];
    call.require(step != 0, "steps must not be 0", step);
    // Further than over the whole axis is as far.
    step = std::clamp(step, -std::numeric_limits<std::int64_t>::max(),
                      std::numeric_limits<std::int64_t>::max());
    const std::int64_t low = step > 0 ? 0 : -1;
    const std::int64_t high = step > 0 ? extent : extent - 1;
    const std::int64_t start = std::clamp<std::int64_t>(
        starts[i] < 0 ? starts[i] + extent : starts[i], std::min<std::int64_t>(0, high), high);
    const std::int64_t end = std::clamp<std::int64_t>(ends[i] < 0 ? ends[i] + extent : ends[i], low,
                                                      std::max(low, high));
    std::int64_t count = 0;
    if (step > 0 && end > start) count = (end - start - 1) / step + 1;
    if (step < 0 && end < start) count = (start - end - 1) / -step + 1;
    extents[axis] = count;
    if (count > 0) offset += start * from[axis];
    from[axis] = count > 1 ? from[axis] * step : 0;
  }
  // Nothing is left out and nothing reversed.
  const bool whole = extents == data.shape() && offset == 0;
  if (whole) return call.set(0, data);
  copy_out(call, data, extents, from, offset);
}

enum class PadMode : std::uint8_t { constant, reflect, edge, wrap };

PadMode pad_mode(const Call& call) {
  const std::string mode = call.text("mode", "constant");
  if (mode == "constant") return PadMode::constant;
  if (mode == "reflect") return PadMode::reflect;
  if (mode == "edge") return PadMode::edge;
  if (mode == "wrap") return PadMode::wrap;
  throw Error(error_text(call.where(), "mode must be constant, reflect, edge or wrap", mode));
}

// Where among `extent` elements the place `at`, counted from the first of them, is read.
std::int64_t padded_from(PadMode mode, std::int64_t at, std::int64_t extent) {
  if (mode == PadMode::edge || extent == 1) return std::clamp<std::int64_t>(at, 0, extent - 1);
  const std::int64_t period = mode == PadMode::wrap ? extent : 2 * (extent - 1);
  std::int64_t place = at % period;
  if (place < 0) place += period;
  return place < extent ? place : period - place;
}

// What Pad does to each axis: `keep` elements from `first` on, behind `before` new ones.
struct Padding {
  Shape extents;
  Shape before;
  Shape first;
  Shape keep;
};

Padding padding_of(const Call& call, const Tensor& data, const Integers& pads,
                   const std::vector<int>& axes) {
  const std::size_t count = axes.size();
  call.require(pads.size() == 2 * count, "pads must be two for each axis, pads", pads.size());
  Padding result{data.shape(), data.shape(), data.shape(), data.shape()};
  for (int axis = 0; axis < data.rank(); ++axis) result.before[axis] = result.first[axis] = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const int axis = axes[i];
    const std::int64_t extent = data.shape()[axis];
    const std::int64_t before = pads[i];
    const std::int64_t after = pads[i + count];
    // Negative pads cut elements off, as many as there are.
    call.require(before >= -extent && after >= -extent, "pads must not cut more than there is",
                 std::min(before, after));
    const std::int64_t first = std::max<std::int64_t>(0, -before);
    const std::int64_t keep = extent - first - std::max<std::int64_t>(0, -after);
    call.require(keep >= 0, "pads must not cut more than there is", keep);
    result.first[axis] = first;
    result.keep[axis] = keep;
    result.before[axis] = std::max<std::int64_t>(0, before);
    result.extents[axis] = checked_sum(call, checked_sum(call, result.before[axis], keep),
                                       std::max<std::int64_t>(0, after));
  }
  return result;
}

// The kept elements of `data` into their places of `out`.
template <class T>
void copy_kept(const Padding& padding, const Tensor& data, Tensor& out) {
  if (element_count(padding.keep) == 0) return;
  const Shape from = contiguous_strides(data.shape());
  const Shape to = contiguous_strides(out.shape());
  const T* source = units<T>(data);
  T* target = mutable_units<T>(out);
  std::array<StridedAxis, kMaxRank> axes;
  for (int axis = 0; axis < data.rank(); ++axis) {
    source += padding.first[axis] * from[axis];
    target += padding.before[axis] * to[axis];
    axes[axis] = {padding.keep[axis], from[axis], to[axis]};
  }
  copy_strided<T>(target, source, {axes.data(), data.shape().size()});
}

// Every element read where `tables` say, axis by axis.
template <class T>
void copy_by_tables(const Padding& padding, const std::vector<Integers>& tables, const Tensor& data,
                    Tensor& out) {
  const int last = data.rank() - 1;
  const std::int64_t row = padding.extents[last];
  const std::int64_t before = padding.before[last];
  const std::int64_t keep = padding.keep[last];
  const Integers& places = tables[last];
  const T* source = units<T>(data);
  T* target = mutable_units<T>(out);
  std::array<std::int64_t, kMaxRank> index{};
  const std::int64_t rows = out.size() / row;
  for (std::int64_t at = 0; at < rows; ++at, target += row) {
    const T* base = source;
    for (int axis = 0; axis < last; ++axis) base += tables[axis][index[axis]];
    for (std::int64_t i = 0; i < before; ++i) target[i] = base[places[i]];
    copy_run<T>(target + before, base + padding.first[last], keep);
    for (std::int64_t i = before + keep; i < row; ++i) target[i] = base[places[i]];
    for (int axis = last - 1; axis >= 0; --axis) {
      if (++index[axis] < padding.extents[axis]) break;
      index[axis] = 0;
    }
  }
}

void pad(Call& call) {
  const Tensor& data = call.input(0);
  const PadMode mode = pad_mode(call);
  const bool inputs = call.version() >= 11;
  std::vector<int> axes(data.shape().size());
  std::iota(axes.begin(), axes.end(), 0);
  if (call.version() >= 18 && call.has(3)) axes = axes_of(call, call.integers(3), data.rank());
  const Padding padding = padding_of(
      call, data,
      inputs ? call.integers(1) : call.required<Integers>(call.version() < 2 ? "paddings" : "pads"),
      axes);
  Tensor value;
  if (inputs && call.has(2)) {
    value = call.input(2, data.type());
    call.require(value.size() == 1, "constant_value must have one element, shape", value.shape());
  }
  if (padding.extents == data.shape() && padding.keep == data.shape()) return call.set(0, data);
  Tensor& out = call.output(0, data.type(), padding.extents);
  if (out.size() == 0) return;
  if (mode == PadMode::constant) {
    const auto fill = [&]<class T>() {
      T filling{};
      if (inputs && call.has(2)) filling = *units<T>(value);
      fill_run<T>(mutable_units<T>(out), filling, out.size());
      copy_kept<T>(padding, data, out);
    };
    if (!inputs && data.type() != ElementType::string) {
      const float number = call.attribute<float>("value", 0.0f);
      visit_floats(call, data.type(), [&]<class T>() {
        std::fill_n(out.mutable_data<T>(), out.size(), static_cast<T>(number));
      });
      return visit_units(call, data.type(), [&]<class T>() { copy_kept<T>(padding, data, out); });
    }
    return visit_units(call, data.type(), fill);
  }
  const Shape strides = strides_of(data);
  std::vector<Integers> tables(data.shape().size());
  for (int axis = 0; axis < data.rank(); ++axis) {
    const std::int64_t keep = padding.keep[axis];
    call.require(keep > 0, "an axis to pad must have elements, unless the mode is constant, shape",
                 data.shape());
    tables[axis].resize(static_cast<std::size_t>(padding.extents[axis]));
    for (std::int64_t i = 0; i < padding.extents[axis]; ++i) {
      tables[axis][i] =
          (padding.first[axis] + padded_from(mode, i - padding.before[axis], keep)) * strides[axis];
    }
  }
  visit_units(call, data.type(), [&]<class T>() { copy_by_tables<T>(padding, tables, data, out); });
}

void tile(Call& call) {
  const Tensor& data = call.input(0);
  const Integers repeats = call.integers(1);
  call.require(repeats.size() == data.shape().size(), "repeats must be one for each axis, repeats",
               repeats.size());
  Shape extents = data.shape();
  for (int axis = 0; axis < data.rank(); ++axis) {
    call.require(repeats[axis] >= 0, "repeats must be >= 0", repeats[axis]);
    extents[axis] = checked_product(call, extents[axis], repeats[axis]);
  }
  if (extents == data.shape()) return call.set(0, data);
  Tensor& out = call.output(0, data.type(), extents);
  if (out.size() == 0) return;
  const Shape from = contiguous_strides(data.shape());
  const Shape to = contiguous_strides(extents);
  std::array<StridedAxis, kMaxStridedAxes> axes;
  std::size_t count = 0;
  for (int axis = 0; axis < data.rank(); ++axis) {
    axes[count++] = {repeats[axis], 0, to[axis] * data.shape()[axis]};
    axes[count++] = {data.shape()[axis], from[axis], to[axis]};
  }
  visit_units(call, data.type(), [&]<class T>() {
    copy_strided<T>(mutable_units<T>(out), units<T>(data), {axes.data(), count});
  });
}

void trilu(Call& call) {
  const Tensor& data = call.input(0);
  const int rank = data.rank();
  call.require(rank >= 2, "input must have two dimensions at least, shape", data.shape());
  const bool upper = call.attribute<std::int64_t>("upper", 1) != 0;
  const std::int64_t rows = data.shape()[rank - 2];
  const std::int64_t columns = data.shape()[rank - 1];
  const std::int64_t k =
      std::clamp<std::int64_t>(call.has(1) ? call.integer(1) : 0, -rows - 1, columns + 1);
  Tensor& out = call.output(0, data.type(), data.shape());
  if (out.size() == 0) return;
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    const std::int64_t lines = out.size() / columns;
    std::int64_t row = 0;
    for (std::int64_t line = 0; line < lines; ++line) {
      // The first element of the row that is above the diagonal k, or on it where `upper`.
      const std::int64_t edge = std::clamp<std::int64_t>(row + k + (upper ? 0 : 1), 0, columns);
      if (upper) {
        std::fill_n(target, edge, T{});
        copy_run<T>(target + edge, source + edge, columns - edge);
      } else {
        copy_run<T>(target, source, edge);
        std::fill_n(target + edge, columns - edge, T{});
      }
      source += columns;
      target += columns;
      if (++row == rows) row = 0;
    }
  });
}

// Both directions between depth and blocks of space: the six axes of one are those of the other.
void move_blocks(Call& call, bool to_depth) {
  const Tensor& data = call.input(0);
  call.require(data.rank() == 4, "input must have four dimensions, shape", data.shape());
  const std::int64_t block = call.required<std::int64_t>("blocksize");
  call.require(block > 0 && block <= (std::int64_t{1} << 31), "blocksize must be in [1, 2^31]",
               block);
  const std::string mode = call.text("mode", "DCR");
  call.require(mode == "DCR" || mode == "CRD", "mode must be DCR or CRD", mode);
  const bool depth_first = mode == "DCR";
  const Shape& in = data.shape();
  Shape result = in;
  if (to_depth) {
    call.require(in[2] % block == 0 && in[3] % block == 0,
                 "blocksize must divide height and width, shape", in);
    result[1] = checked_product(call, in[1], block * block);
    result[2] = in[2] / block;
    result[3] = in[3] / block;
  } else {
    call.require(in[1] % (block * block) == 0, "blocksize^2 must divide the depth, shape", in);
    result[1] = in[1] / (block * block);
    result[2] = checked_product(call, in[2], block);
    result[3] = checked_product(call, in[3], block);
  }
  if (block == 1) return call.set(0, data);
  Tensor& out = call.output(0, data.type(), result);
  if (out.size() == 0) return;
  const Shape& deep = to_depth ? result : in;
  const Shape& wide = to_depth ? in : result;
  const std::int64_t channels = wide[1];
  const std::int64_t area = deep[2] * deep[3];
  // Steps of channel, row and column of the block in the deep tensor.
  const std::int64_t c = depth_first ? area : block * block * area;
  const std::int64_t y = depth_first ? block * channels * area : block * area;
  const std::int64_t x = depth_first ? channels * area : area;
  const std::int64_t width = wide[3];
  const std::int64_t image = channels * wide[2] * width;
  // Row-major in the wide tensor: image, channel, row, row in block, column, column in block.
  const std::int64_t extents[] = {in[0], channels, deep[2], block, deep[3], block};
  const std::int64_t deeps[] = {image, c, deep[3], y, 1, x};
  const std::int64_t wides[] = {image, wide[2] * width, block * width, width, block, 1};
  // The loops go in the order in which the output lies.
  constexpr int kWideOrder[] = {0, 1, 2, 3, 4, 5};
  constexpr int kDeepDcr[] = {0, 3, 5, 1, 2, 4};
  constexpr int kDeepCrd[] = {0, 1, 3, 5, 2, 4};
  const int* order = !to_depth ? kWideOrder : depth_first ? kDeepDcr : kDeepCrd;
  StridedAxis axes[6];
  for (int i = 0; i < 6; ++i) {
    const int axis = order[i];
    axes[i] = to_depth ? StridedAxis{extents[axis], wides[axis], deeps[axis]}
                       : StridedAxis{extents[axis], deeps[axis], wides[axis]};
  }
  visit_units(call, data.type(),
              [&]<class T>() { copy_strided<T>(mutable_units<T>(out), units<T>(data), axes); });
}

void depth_to_space(Call& call) { move_blocks(call, false); }
void space_to_depth(Call& call) { move_blocks(call, true); }

void center_crop_pad(Call& call) {
  const Tensor& data = call.input(0);
  const Integers wanted = call.integers(1);
  std::vector<int> axes(data.shape().size());
  std::iota(axes.begin(), axes.end(), 0);
  if (call.node().find("axes") != nullptr) {
    axes = axes_of(call, call.required<Integers>("axes"), data.rank());
  }
  call.require(wanted.size() == axes.size(), "shape must have an extent for each axis, extents",
               wanted.size());
  Padding padding{data.shape(), data.shape(), data.shape(), data.shape()};
  for (int axis = 0; axis < data.rank(); ++axis) padding.before[axis] = padding.first[axis] = 0;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const int axis = axes[i];
    const std::int64_t extent = data.shape()[axis];
    call.require(wanted[i] >= 0, "shape must hold extents >= 0", wanted[i]);
    padding.extents[axis] = wanted[i];
    padding.keep[axis] = std::min(extent, wanted[i]);
    padding.first[axis] = (extent - padding.keep[axis]) / 2;
    padding.before[axis] = (wanted[i] - padding.keep[axis]) / 2;
  }
  if (padding.extents == data.shape()) return call.set(0, data);
  Tensor& out = call.output(0, data.type(), padding.extents);
  if (out.size() == 0) return;
  visit_units(call, data.type(), [&]<class T>() {
    fill_run<T>(mutable_units<T>(out), T{}, out.size());
    copy_kept<T>(padding, data, out);
  });
}

void reverse_sequence(Call& call) {
  const Tensor& data = call.input(0);
  call.require(data.rank() >= 2, "input must have two dimensions at least, shape", data.shape());
  const std::int64_t time = call.attribute<std::int64_t>("time_axis", 0);
  const std::int64_t batch = call.attribute<std::int64_t>("batch_axis", 1);
  call.require((time == 0 || time == 1) && (batch == 0 || batch == 1) && time != batch,
               "time_axis and batch_axis must be 0 and 1, time_axis", time);
  const Integers lengths = call.integers(1);
  const std::int64_t sequences = data.shape()[static_cast<int>(batch)];
  const std::int64_t steps = data.shape()[static_cast<int>(time)];
  call.require(static_cast<std::int64_t>(lengths.size()) == sequences,
               "sequence_lens must have a length for each sequence, lengths", lengths.size());
  for (const std::int64_t length : lengths) {
    call.require(length >= 0 && length <= steps, "sequence_lens must not exceed the time axis",
                 length);
  }
  Tensor& out = call.output(0, data.type(), data.shape());
  if (out.size() == 0) return;
  const std::int64_t inner = out.size() / sequences / steps;
  const std::int64_t by_time = inner * (time == 0 ? sequences : 1);
  const std::int64_t by_batch = inner * (time == 0 ? 1 : steps);
  visit_units(call, data.type(), [&]<class T>() {
    const T* source = units<T>(data);
    T* target = mutable_units<T>(out);
    for (std::int64_t i = 0; i < sequences; ++i) {
      for (std::int64_t t = 0; t < steps; ++t) {
        const std::int64_t from = t < lengths[i] ? lengths[i] - 1 - t : t;
        copy_run<T>(target + t * by_time + i * by_batch, source + from * by_time + i * by_batch,
                    inner);
      }
    }
  });
}

constexpr Operator kOperators[] = {
    {"", "Transpose", 1, moving<transpose>},
    {"", "Expand", 8, moving<expand>},
    {"", "Concat", 1, concat},
    {"", "Split", 1, moving<split>},
    {"", "Slice", 1, moving<slice>},
    {"", "Pad", 1, moving<pad>},
    {"", "Tile", 6, moving<tile>},
    {"", "Trilu", 14, moving<trilu>},
    {"", "DepthToSpace", 1, moving<depth_to_space>},
    {"", "SpaceToDepth", 1, moving<space_to_depth>},
    {"", "CenterCropPad", 18, moving<center_crop_pad>},
    {"", "ReverseSequence", 10, moving<reverse_sequence>},
};

}  // namespace

std::span<const Operator> movement_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph
