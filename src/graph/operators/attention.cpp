// SPDX-License-Identifier: Apache-2.0
// Attention of transformers: softmax over keys, linear recurrences, rotary positions.
#include <cmath>
#include <limits>

#include <moptcore/graph/operator.hpp>

#include "graph/operators/gemm.hpp"
#include "graph/operators/widen.hpp"

namespace moptcore::inline v0::graph {
namespace {

constexpr std::int64_t kQueryRows = 32;  // queries that a block of work takes

// (batch, heads, length, size), wherever the elements lie: heads of a tensor with three axes are
// parts of its rows.
struct Heads {
  std::int64_t batch = 0;
  std::int64_t heads = 0;
  std::int64_t length = 0;
  std::int64_t size = 0;
  std::int64_t batch_step = 0;
  std::int64_t head_step = 0;
  std::int64_t row_step = 0;

  [[nodiscard]] std::int64_t row(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return b * batch_step + h * head_step + i * row_step;
  }
  [[nodiscard]] Shape shape() const { return {batch, heads, length, size}; }
};

Heads contiguous_heads(const Shape& shape) {
  Heads made{shape[0], shape[1], shape[2], shape[3], 0, 0, shape[3]};
  made.head_step = made.length * made.size;
  made.batch_step = made.heads * made.head_step;
  return made;
}

// Of a tensor of 4 axes, or of 3 whose last one holds `heads` heads.
Heads read_heads(const Call& call, const Shape& shape, std::int64_t heads) {
  if (shape.rank() == 4) return contiguous_heads(shape);
  call.require(shape.rank() == 3, "inputs must have 3 or 4 dimensions, shape", shape);
  call.require(heads >= 1 && shape[2] % heads == 0,
               "the number of heads must be >= 1 and divide the last dimension", heads);
  Heads made{shape[0], heads, shape[1], shape[2] / heads, 0, 0, shape[2]};
  made.head_step = made.size;
  made.batch_step = made.length * made.row_step;
  return made;
}

// float32, or float64 where `wide`.
Tensor in_precision(Call& call, const Tensor& tensor, bool wide) {
  const Tensor result = widened(call, tensor);
  return wide ? rounded(call, result, ElementType::float64) : result;
}

// `past` and behind it `now` along the lengths, without gaps.
Tensor joined(Call& call, const std::optional<Tensor>& past, const Tensor& now, const Heads& from) {
  Shape shape = from.shape();
  const std::int64_t before = past ? past->shape()[2] : 0;
  shape[2] += before;
  Tensor result = call.environment().allocate(now.type(), shape);
  visit_wide(call, now.type(), [&]<class T> {
    T* to = result.mutable_data<T>();
    const T* old = past ? past->data<T>() : nullptr;
    if (result.size() == 0) return;
    for (std::int64_t b = 0; b < from.batch; ++b) {
      for (std::int64_t h = 0; h < from.heads; ++h) {
        const std::int64_t kept = before * from.size;
        if (old != nullptr) {
          std::copy_n(old + (b * from.heads + h) * kept, kept, to);
          to += kept;
        }
        for (std::int64_t i = 0; i < from.length; ++i, to += from.size) {
          std::copy_n(now.data<T>() + from.row(b, h, i), from.size, to);
        }
      }
    }
  });
  return result;
}

// What a type of 16 bits keeps of a number; the number itself for others.
template <class T>
T kept(T value, ElementType type) {
  if (type == ElementType::float16) {
    return static_cast<T>(static_cast<float>(float16(static_cast<float>(value))));
  }
  if (type == ElementType::bfloat16) {
    return static_cast<T>(static_cast<float>(bfloat16(static_cast<float>(value))));
  }
  return value;
}

template <class T>
void keep_row(T* row, std::int64_t count, ElementType type) {
  if (!is_half(type)) return;
  for (std::int64_t i = 0; i < count; ++i) row[i] = kept(row[i], type);
}

// Softmax of a row, each step of it rounded to `type`. Maxima of -inf give zeros instead of NaN.
template <class T>
void softmax(T* row, std::int64_t count, ElementType type) {
  T most = -std::numeric_limits<T>::infinity();
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, row[i]);
  if (most == -std::numeric_limits<T>::infinity()) {
    for (std::int64_t i = 0; i < count; ++i) row[i] = std::isnan(row[i]) ? row[i] : T(0);
    return;
  }
  if (is_half(type)) {
    T sum = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      row[i] = kept(std::exp(kept(row[i] - most, type)), type);
      sum += row[i];
      // Sums of float16 are rounded once in NumPy, those of bfloat16 term by term.
      if (type == ElementType::bfloat16) sum = kept(sum, type);
    }
    sum = kept(sum, type);
    for (std::int64_t i = 0; i < count; ++i) row[i] = kept(row[i] / sum, type);
    return;
  }
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    row[i] = std::exp(row[i] - most);
    sum += static_cast<double>(row[i]);
  }
  const T factor = static_cast<T>(1 / sum);
  for (std::int64_t i = 0; i < count; ++i) row[i] *= factor;
}

// `tensor` times `factor`, as `type` keeps both.
Tensor scaled(Call& call, const Tensor& tensor, double factor, ElementType type) {
  Tensor result = call.environment().allocate(tensor.type(), tensor.shape());
  visit_wide(call, tensor.type(), [&]<class T> {
    const T by = kept(static_cast<T>(factor), type);
    const auto all = tensor.values<T>();
    std::transform(all.begin(), all.end(), result.mutable_data<T>(),
                   [&](T value) { return kept(value * by, type); });
  });
  return result;
}

ElementType precision_of(const Call& call, ElementType fallback) {
  const auto given = call.attribute<std::int64_t>("softmax_precision", 0);
  if (given == 0) return fallback;
  for (const ElementType type :
       {ElementType::float32, ElementType::float64, ElementType::float16, ElementType::bfloat16}) {
    if (given == static_cast<std::int64_t>(type)) return type;
  }
  throw DTypeError(error_text(call.where(), "softmax_precision must be a float type", given));
}

// What is added to the scores of a query: the mask, and -inf for keys that it must not see.
class Bias {
 public:
  Bias(Call& call, std::int64_t batch, std::int64_t heads, std::int64_t queries, std::int64_t keys,
       std::int64_t past, bool wide)
      : keys_(keys), past_(past), queries_(queries) {
    causal_ = call.attribute<std::int64_t>("is_causal", 0) != 0;
    left_ = call.attribute<std::int64_t>("left_window_size", -1);
    right_ = call.attribute<std::int64_t>("right_window_size", -1);
    call.require(left_ >= -1, "left_window_size must be >= -1", left_);
    call.require(right_ >= -1, "right_window_size must be >= -1", right_);
    // Wider than all there is means nothing more; sums below stay in range.
    left_ = std::min(left_, std::int64_t{1} << 60);
    right_ = std::min(right_, std::int64_t{1} << 60);
    if (call.has(6)) {
      call.require(past == 0 && !call.has(4), "nonpad_kv_seqlen must not be given with past_key",
                   past);
      lengths_ = call.integers(6);
      call.require(call.input(6).shape() == Shape({batch}),
                   "nonpad_kv_seqlen must have an element for each sample, shape",
                   call.input(6).shape());
      for (const std::int64_t length : lengths_) {
        call.require(length >= 0 && length <= keys,
                     "nonpad_kv_seqlen must be in [0, " + std::to_string(keys) + "]", length);
      }
    }
    if (call.has(3)) read_mask(call, Shape{batch, heads, queries, keys}, wide);
  }

  [[nodiscard]] bool is_nothing() const {
    return !mask_ && !causal_ && left_ < 0 && right_ < 0 && lengths_.empty();
  }

  // False where no key is left.
  template <class T>
  bool fill(std::int64_t b, std::int64_t h, std::int64_t i, T* row) const {
    constexpr T kNever = -std::numeric_limits<T>::infinity();
    if (mask_) {
      const T* from = mask_->data<T>() + b * steps_[0] + h * steps_[1] + i * steps_[2];
      for (std::int64_t j = 0; j < width_; ++j) row[j] = from[j * steps_[3]];
      std::fill(row + width_, row + keys_, kNever);
    } else {
      std::fill_n(row, keys_, T(0));
    }
    std::int64_t offset = past_;
    std::int64_t end = keys_;
    if (!lengths_.empty()) {
      offset = lengths_[b] - queries_;
      end = lengths_[b];
    }
    const std::int64_t at = i + offset;
    std::int64_t begin = 0;
    if (causal_) end = std::min(end, at + 1);
    if (left_ >= 0) begin = std::max(begin, at - left_);
    if (right_ >= 0) end = std::min(end, at + right_ + 1);
    begin = std::clamp<std::int64_t>(begin, 0, keys_);
    end = std::clamp<std::int64_t>(end, begin, keys_);
    std::fill(row, row + begin, kNever);
    std::fill(row + end, row + keys_, kNever);
    return std::any_of(row + begin, row + end, [](T value) { return value != kNever; });
  }

 private:
  void read_mask(Call& call, const Shape& full, bool wide) {
    const Tensor& given = call.input(3);
    const Shape& shape = given.shape();
    call.require(shape.rank() >= 1 && shape.rank() <= 4, "attn_mask must have 1 to 4 dimensions",
                 shape);
    const int missing = 4 - shape.rank();
    std::int64_t step = 1;
    for (int axis = 3; axis >= 0; --axis) {
      const std::int64_t extent = axis < missing ? 1 : shape[axis - missing];
      const bool shorter = axis == 3 && extent < full[3] && (extent != 1 || call.version() >= 24);
      call.require(extent == full[axis] || extent == 1 || shorter,
                   "attn_mask must be broadcastable to the scores, shape", shape);
      if (axis == 3) width_ = shorter ? extent : full[3];
      steps_[axis] = extent == 1 && !(axis == 3 && shorter) ? 0 : step;
      step *= extent;
    }
    if (given.type() != ElementType::boolean && is_float(given.type())) {
      mask_ = in_precision(call, given, wide);
      return;
    }
    mask_ = call.environment().allocate(wide ? ElementType::float64 : ElementType::float32, shape);
    visit_wide(call, mask_->type(), [&]<class T> {
      T* to = mask_->mutable_data<T>();
      if (given.type() == ElementType::boolean) {
        const auto all = given.values<bool>();
        std::transform(all.begin(), all.end(), to,
                       [](bool seen) { return seen ? T(0) : -std::numeric_limits<T>::infinity(); });
        return;
      }
      visit_integers(call, given.type(), [&]<class From> {
        const auto all = given.values<From>();
        std::transform(all.begin(), all.end(), to,
                       [](From value) { return static_cast<T>(value); });
      });
    });
  }
  static bool is_float(ElementType type) {
    return is_half(type) || type == ElementType::float32 || type == ElementType::float64;
  }

  std::int64_t keys_;
  std::int64_t past_;
  std::int64_t queries_;
  bool causal_ = false;
  std::int64_t left_ = -1;
  std::int64_t right_ = -1;
  std::vector<std::int64_t> lengths_;
  std::optional<Tensor> mask_;
  std::int64_t width_ = 0;  // keys that the mask names
  std::int64_t steps_[4] = {};
};

struct Inputs {
  Heads q;
  Heads k;
  Heads v;
  Tensor queries;
  Tensor keys;
  Tensor values;
  bool wide = false;
};

void require_agreement(const Call& call, const Inputs& in) {
  call.require(in.k.batch == in.q.batch && in.v.batch == in.q.batch,
               "queries, keys and values must be of as many samples, keys are of", in.k.batch);
  call.require(in.k.heads == in.v.heads && in.k.length == in.v.length,
               "values must be as many as the keys, shape", in.v.shape());
  call.require(in.k.size == in.q.size, "keys must have the size of the queries", in.k.size);
  call.require(in.k.heads >= 1 && in.q.heads % in.k.heads == 0,
               "heads of queries must be a multiple of those of keys, which are", in.k.heads);
}

Inputs read_inputs(Call& call) {
  Inputs in;
  const Tensor& q = call.input(0);
  const Tensor& k = call.input(1, q.type());
  const Tensor& v = call.input(2);
  call.require(k.rank() == q.rank() && v.rank() == q.rank(),
               "queries, keys and values must have as many dimensions, keys have", k.rank());
  const auto q_heads = call.attribute<std::int64_t>("q_num_heads", 0);
  const auto kv_heads = call.attribute<std::int64_t>("kv_num_heads", 0);
  in.q = read_heads(call, q.shape(), q_heads);
  in.k = read_heads(call, k.shape(), kv_heads);
  in.v = read_heads(call, v.shape(), kv_heads);
  in.wide = q.type() == ElementType::float64 || v.type() == ElementType::float64;
  in.queries = in_precision(call, q, in.wide);
  in.keys = in_precision(call, k, in.wide);
  in.values = in_precision(call, v, in.wide);
  require_agreement(call, in);
  return in;
}

double scale_of(const Call& call, std::int64_t size) {
  if (call.node().find("scale") != nullptr) return call.attribute<float>("scale", 1.0f);
  return 1 / std::sqrt(static_cast<double>(size));
}

// rows of scores: scale * q k^T of queries [first, first + rows).
template <class T>
void scores(const Inputs& in, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows,
            double scale, T* out) {
  const std::int64_t keys = in.k.length;
  std::fill_n(out, rows * keys, T(0));
  const std::int64_t shared = h / (in.q.heads / in.k.heads);
  gemm(rows, keys, in.q.size,
       Matrix<const T>{in.queries.data<T>() + in.q.row(b, h, first), in.q.row_step, 1},
       Matrix<const T>{in.keys.data<T>() + in.k.row(b, shared, 0), 1, in.k.row_step},
       Matrix<T>{out, keys, 1});
  const T factor = static_cast<T>(scale);
  for (std::int64_t i = 0; i < rows * keys; ++i) out[i] *= factor;
}

// y = probabilities times values.
template <class T>
void weigh(const Inputs& in, std::int64_t b, std::int64_t h, std::int64_t rows, const T* weights,
           T* y, std::int64_t y_step) {
  const std::int64_t shared = h / (in.q.heads / in.k.heads);
  for (std::int64_t i = 0; i < rows; ++i) std::fill_n(y + i * y_step, in.v.size, T(0));
  gemm(rows, in.v.size, in.k.length, Matrix<const T>{weights, in.k.length, 1},
       Matrix<const T>{in.values.data<T>() + in.v.row(b, shared, 0), in.v.row_step, 1},
       Matrix<T>{y, y_step, 1});
}

// f(sample, head, first query, queries).
template <class F>
void for_each_block(const Heads& q, F&& f) {
  const std::int64_t blocks = block_count(q.length, kQueryRows);
  parallel_for(q.batch * q.heads * blocks, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t job = from; job < to; ++job) {
      const std::int64_t first = job % blocks * kQueryRows;
      const std::int64_t head = job / blocks;
      f(head / q.heads, head % q.heads, first, std::min(kQueryRows, q.length - first));
    }
  });
}

Heads output_heads(const Heads& q, std::int64_t size, bool packed) {
  Heads made{q.batch, q.heads, q.length, size, 0, 0, 0};
  made.row_step = packed ? size * q.heads : size;
  made.head_step = packed ? size : size * q.length;
  made.batch_step = size * q.heads * q.length;
  return made;
}

void attention(Call& call) {
  Inputs in = read_inputs(call);
  const ElementType type = call.input(0).type();
  const ElementType value_type = call.input(2).type();
  const bool packed = call.input(0).rank() == 3;
  const double scale = scale_of(call, in.q.size);
  call.require(scale >= 0, "scale must be >= 0", scale);
  const double softcap = call.attribute<float>("softcap", 0.0f);
  const auto mode = call.attribute<std::int64_t>("qk_matmul_output_mode", 0);
  call.require(mode >= 0 && mode <= 3, "qk_matmul_output_mode must be in [0, 3]", mode);
  const ElementType precision = precision_of(call, type);

  call.require(call.has(4) == call.has(5), "past_key and past_value must be given together",
               call.has(4) ? "past_key" : "past_value");
  std::int64_t past = 0;
  if (call.has(4) || call.wants(1) || call.wants(2)) {
    std::optional<Tensor> past_key;
    std::optional<Tensor> past_value;
    if (call.has(4)) {
      past_key = in_precision(call, call.input(4), in.wide);
      past_value = in_precision(call, call.input(5), in.wide);
      const auto fits = [&](const Tensor& cache, const Heads& now) {
        const Shape& shape = cache.shape();
        return shape.rank() == 4 && shape[0] == now.batch && shape[1] == now.heads &&
               shape[3] == now.size;
      };
      call.require(fits(*past_key, in.k), "past_key must have the shape (batch, heads, past, size)",
                   past_key->shape());
      call.require(fits(*past_value, in.v) && past_value->shape()[2] == past_key->shape()[2],
                   "past_value must have the shape (batch, heads, past, size)",
                   past_value->shape());
      past = past_key->shape()[2];
    }
    in.keys = joined(call, past_key, in.keys, in.k);
    in.values = joined(call, past_value, in.values, in.v);
    in.k = contiguous_heads(in.keys.shape());
    in.v = contiguous_heads(in.values.shape());
    if (call.wants(1)) set_rounded(call, 1, in.keys, type);
    if (call.wants(2)) set_rounded(call, 2, in.values, value_type);
  }

  const std::int64_t keys = in.k.length;
  // Halves are scaled and rounded on both sides, as the definition has it; wider types need it
  // once.
  double factor = scale;
  if (is_half(type)) {
    in.queries = scaled(call, in.queries, std::sqrt(scale), type);
    in.keys = scaled(call, in.keys, std::sqrt(scale), type);
    factor = 1;
  }
  const Bias bias(call, in.q.batch, in.q.heads, in.q.length, keys, past, in.wide);
  const Heads out = output_heads(in.q, in.v.size, packed);
  const Shape shape =
      packed ? Shape{in.q.batch, in.q.length, element_count(Shape{in.q.heads, in.v.size})}
             : out.shape();
  const ElementType computed = in.queries.type();
  Tensor y = call.environment().allocate(computed, shape);
  std::optional<Tensor> shown;
  if (call.wants(3)) {
    shown = call.environment().allocate(computed, Shape{in.q.batch, in.q.heads, in.q.length, keys});
  }
  visit_wide(call, computed, [&]<class T> {
    if (y.size() == 0 && (!shown || shown->size() == 0)) return;
    for_each_block(in.q, [&](std::int64_t b, std::int64_t h, std::int64_t first,
                             std::int64_t rows) {
      std::vector<T> block(static_cast<std::size_t>(rows * keys));
      std::vector<T> added(static_cast<std::size_t>(keys));
      T* copy = shown
                    ? shown->mutable_data<T>() + ((b * in.q.heads + h) * in.q.length + first) * keys
                    : nullptr;
      const auto show = [&](std::int64_t wanted) {
        if (copy != nullptr && mode == wanted) std::copy(block.begin(), block.end(), copy);
      };
      scores(in, b, h, first, rows, factor, block.data());
      keep_row(block.data(), rows * keys, type);
      show(0);
      if (softcap > 0) {
        const T cap = static_cast<T>(softcap);
        for (T& score : block) score = cap * std::tanh(score / cap);
        keep_row(block.data(), rows * keys, type);
      }
      show(1);
      std::vector<bool> sees(static_cast<std::size_t>(rows), true);
      if (!bias.is_nothing()) {
        for (std::int64_t i = 0; i < rows; ++i) {
          sees[i] = bias.fill(b, h, first + i, added.data());
          for (std::int64_t j = 0; j < keys; ++j) block[i * keys + j] += added[j];
          keep_row(block.data() + i * keys, keys, type);
        }
      }
      show(2);
      for (std::int64_t i = 0; i < rows; ++i) {
        T* row = block.data() + i * keys;
        if (!sees[i]) {
          std::fill_n(row, keys, T(0));
          continue;
        }
        keep_row(row, keys, precision);
        softmax(row, keys, precision);
        keep_row(row, keys, type);
      }
      show(3);
      weigh(in, b, h, rows, block.data(), y.mutable_data<T>() + out.row(b, h, first), out.row_step);
    });
  });
  set_rounded(call, 0, y, type);
  if (shown) set_rounded(call, 3, *shown, type);
}

// What a subgraph of the node makes of a tensor, of the same shape and type.
Tensor modified(Call& call, std::string_view name, const Tensor& tensor) {
  const Attribute* found = call.node().find(name);
  if (found == nullptr) return tensor;
  const auto* body = std::get_if<Subgraph>(&found->value);
  call.require<FormatError>(body != nullptr, "attribute must be of the kind that its operator has",
                            name);
  const Value input(tensor);
  const std::vector<Value> outputs = call.environment().run(**body, std::span(&input, 1));
  call.require(outputs.size() == 1 && outputs[0].is_tensor(),
               "a modifier must have one output, a tensor, outputs are", outputs.size());
  const Tensor& result = outputs[0].tensor();
  call.require<DTypeError>(result.type() == tensor.type(), "a modifier must keep the element type",
                           graph::name(result.type()));
  call.require(result.shape() == tensor.shape(), "a modifier must keep the shape", result.shape());
  return result;
}

void flex_attention(Call& call) {
  call.require(call.input(0).rank() == 4, "inputs must have 4 dimensions, shape",
               call.input(0).shape());
  Inputs in = read_inputs(call);
  const ElementType type = call.input(0).type();
  static_cast<void>(call.input(2, type));
  const ElementType precision = precision_of(
      call, type == ElementType::float64 ? ElementType::float64 : ElementType::float32);
  const double scale = scale_of(call, in.q.size);
  const std::int64_t keys = in.k.length;
  const ElementType computed = in.queries.type();
  const auto part = [&](std::int64_t b, std::int64_t h, std::int64_t first) {
    return ((b * in.q.heads + h) * in.q.length + first) * keys;
  };
  Tensor table =
      call.environment().allocate(computed, Shape{in.q.batch, in.q.heads, in.q.length, keys});
  visit_wide(call, computed, [&]<class T> {
    if (table.size() == 0) return;
    for_each_block(
        in.q, [&](std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows) {
          scores(in, b, h, first, rows, scale, table.mutable_data<T>() + part(b, h, first));
        });
  });
  // Between the products everything happens in the precision that the node names.
  const Tensor scored = modified(call, "score_mod", rounded(call, table, precision));
  Tensor weights = widened(call, scored).clone();
  visit_wide(call, weights.type(), [&]<class T> {
    T* rows = weights.mutable_data<T>();
    if (weights.size() == 0) return;
    parallel_for(weights.size() / keys, std::max<std::int64_t>(kGrain / keys, 1),
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t i = first; i < last; ++i)
                     softmax(rows + i * keys, keys, precision);
                 });
  });
  weights = widened(call, modified(call, "prob_mod", rounded(call, weights, precision)));
  weights = rounded(call, weights, computed);
  const Heads out = output_heads(in.q, in.v.size, false);
  Tensor y = call.environment().allocate(computed, out.shape());
  visit_wide(call, computed, [&]<class T> {
    if (y.size() == 0) return;
    for_each_block(in.q,
                   [&](std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t rows) {
                     weigh(in, b, h, rows, weights.data<T>() + part(b, h, first),
                           y.mutable_data<T>() + out.row(b, h, first), out.row_step);
                   });
  });
  set_rounded(call, 0, y, type);
}

void linear_attention(Call& call) {
  const ElementType type = call.input(0).type();
  const std::string rule = call.text("update_rule", "gated_delta");
  const bool gated = rule == "gated" || rule == "gated_delta";
  const bool corrected = rule == "delta" || rule == "gated_delta";
  call.require(gated || corrected || rule == "linear",
               "update_rule must be linear, gated, delta or gated_delta", rule);
  call.require(call.has(4) == gated, "decay must be given for gated rules only, rule", rule);
  call.require(call.has(5) == corrected, "beta must be given for delta rules only, rule", rule);
  const auto q_heads = call.required<std::int64_t>("q_num_heads");
  const auto kv_heads = call.required<std::int64_t>("kv_num_heads");
  call.require(kv_heads >= 1 && q_heads >= 1 && q_heads % kv_heads == 0,
               "q_num_heads must be a multiple of kv_num_heads", q_heads);
  for (const int index : {0, 1, 2}) {
    call.require(call.input(index, type).rank() == 3,
                 "queries, keys and values must have 3 dimensions, shape",
                 call.input(index).shape());
  }
  const Heads q = read_heads(call, call.input(0).shape(), q_heads);
  const Heads k = read_heads(call, call.input(1).shape(), kv_heads);
  const Heads v = read_heads(call, call.input(2).shape(), kv_heads);
  call.require(
      k.batch == q.batch && v.batch == q.batch && k.length == q.length && v.length == q.length,
      "queries, keys and values must be of as many samples and steps, values", v.shape());
  call.require(k.size == q.size, "keys must have the size of the queries", k.size);
  const Tensor queries = widened(call, call.input(0));
  const Tensor keys = widened(call, call.input(1));
  const Tensor values = widened(call, call.input(2));
  const std::optional<Tensor> past = widened_input(call, 3);
  const std::optional<Tensor> decay = widened_input(call, 4);
  const std::optional<Tensor> beta = widened_input(call, 5);
  const Shape state_shape{q.batch, kv_heads, q.size, v.size};
  if (past) {
    call.require(past->shape() == state_shape,
                 "past_state must have the shape (batch, heads, "
                 "key size, value size)",
                 past->shape());
  }
  const auto per_step = [&](const Tensor& tensor, std::int64_t least, std::int64_t most) {
    const Shape& shape = tensor.shape();
    return shape.rank() == 3 && shape[0] == q.batch && shape[1] == q.length &&
           (shape[2] == least || shape[2] == most);
  };
  const std::int64_t key_width = element_count(Shape{kv_heads, q.size});
  if (decay) {
    call.require(per_step(*decay, kv_heads, key_width),
                 "decay must be one for each head, or for each key element, shape", decay->shape());
  }
  if (beta) {
    call.require(per_step(*beta, 1, kv_heads), "beta must be one for each head, or one, shape",
                 beta->shape());
  }
  const float given = call.attribute<float>("scale", 0.0f);
  const double scale = given == 0 ? 1 / std::sqrt(static_cast<double>(q.size)) : given;
  const Heads out = output_heads(q, v.size, true);
  Tensor y = call.environment().allocate(
      queries.type(), Shape{q.batch, q.length, element_count(Shape{q_heads, v.size})});
  Tensor present = call.environment().allocate(queries.type(), state_shape);
  const ElementType state_type = past ? call.input(3).type() : type;
  const std::optional<Tensor> before =
      past ? std::optional(rounded(call, *past, queries.type())) : std::nullopt;
  visit_wide(call, queries.type(), [&]<class T> {
    if (present.size() == 0 && y.size() == 0) return;
    const std::int64_t rows = q.size;
    const std::int64_t columns = v.size;
    const std::int64_t group = q_heads / kv_heads;
    parallel_for(q.batch * kv_heads, 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<T> update(static_cast<std::size_t>(columns));
      for (std::int64_t job = first; job < last; ++job) {
        const std::int64_t b = job / kv_heads;
        const std::int64_t h = job % kv_heads;
        T* state = present.mutable_data<T>() + job * rows * columns;
        if (before) std::copy_n(before->data<T>() + job * rows * columns, rows * columns, state);
        else std::fill_n(state, rows * columns, T(0));
        for (std::int64_t t = 0; t < q.length; ++t) {
          const T* key = keys.data<T>() + k.row(b, h, t);
          const T* value = values.data<T>() + v.row(b, h, t);
          if (decay) {
            const std::int64_t width = decay->shape()[2];
            const T* rate = decay->data<T>() + (b * q.length + t) * width;
            const bool by_head = width == kv_heads;
            for (std::int64_t i = 0; i < rows; ++i) {
              const T factor = std::exp(by_head ? rate[h] : rate[h * rows + i]);
              for (std::int64_t j = 0; j < columns; ++j) state[i * columns + j] *= factor;
            }
          }
          std::copy_n(value, columns, update.data());
          if (beta) {
            const std::int64_t width = beta->shape()[2];
            const T rate = beta->data<T>()[(b * q.length + t) * width + (width == 1 ? 0 : h)];
            for (std::int64_t i = 0; i < rows; ++i) {
              for (std::int64_t j = 0; j < columns; ++j) {
                update[j] -= state[i * columns + j] * key[i];
              }
            }
            for (T& element : update) element *= rate;
          }
          for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < columns; ++j) state[i * columns + j] += key[i] * update[j];
          }
          for (std::int64_t member = h * group; member < (h + 1) * group; ++member) {
            const T* query = queries.data<T>() + q.row(b, member, t);
            T* to = y.mutable_data<T>() + out.row(b, member, t);
            std::fill_n(to, columns, T(0));
            for (std::int64_t i = 0; i < rows; ++i) {
              for (std::int64_t j = 0; j < columns; ++j) to[j] += query[i] * state[i * columns + j];
            }
            for (std::int64_t j = 0; j < columns; ++j) to[j] *= static_cast<T>(scale);
          }
        }
      }
    });
  });
  set_rounded(call, 0, y, type);
  if (call.wants(1)) set_rounded(call, 1, present, state_type);
}

void rotary_embedding(Call& call) {
  const Tensor& input = call.input(0);
  const ElementType type = input.type();
  const Heads heads = read_heads(call, input.shape(), call.attribute<std::int64_t>("num_heads", 0));
  auto rotated = call.attribute<std::int64_t>("rotary_embedding_dim", 0);
  if (rotated == 0) rotated = heads.size;
  call.require(rotated >= 0 && rotated <= heads.size && rotated % 2 == 0,
               "rotary_embedding_dim must be even and not above the head size", rotated);
  const bool interleaved = call.attribute<std::int64_t>("interleaved", 0) != 0;
  const std::int64_t half = rotated / 2;
  const Tensor cosines = widened(call, call.input(1, type));
  const Tensor sines = widened(call, call.input(2, type));
  call.require(cosines.shape() == sines.shape(), "sin_cache must have the shape of cos_cache",
               sines.shape());
  std::vector<std::int64_t> positions;
  const Shape steps{heads.batch, heads.length};
  const std::int64_t count = element_count(steps);
  if (call.has(3)) {
    call.require(call.input(3).shape() == steps, "position_ids must have the shape (batch, length)",
                 call.input(3).shape());
    call.require(cosines.rank() == 2 && cosines.shape()[1] == half,
                 "caches must have the shape (positions, rotated / 2)", cosines.shape());
    positions = call.integers(3);
    const std::int64_t rows = cosines.shape()[0];
    for (std::int64_t& position : positions) {
      const bool inside = position >= -rows && position < rows;
      if (!inside) {
        call.require(false, "position_ids must be in [0, " + std::to_string(rows) + ")", position);
      }
      if (position < 0) position += rows;
    }
  } else {
    call.require(cosines.shape() == Shape({heads.batch, heads.length, half}),
                 "caches must have the shape (batch, length, rotated / 2)", cosines.shape());
  }
  const Tensor x = widened(call, input);
  Tensor y = call.environment().allocate(x.type(), x.shape());
  visit_wide(call, x.type(), [&]<class T> {
    if (x.size() == 0) return;
    const T* in = x.data<T>();
    T* out = y.mutable_data<T>();
    parallel_for(count, std::max<std::int64_t>(kGrain / (heads.heads * heads.size), 1),
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t step = first; step < last; ++step) {
                     const std::int64_t at = positions.empty() ? step : positions[step];
                     const T* cosine = cosines.data<T>() + at * half;
                     const T* sine = sines.data<T>() + at * half;
                     for (std::int64_t h = 0; h < heads.heads; ++h) {
                       const std::int64_t row =
                           heads.row(step / heads.length, h, step % heads.length);
                       const T* from = in + row;
                       T* to = out + row;
                       const std::int64_t stride = interleaved ? 2 : 1;
                       const std::int64_t other = interleaved ? 1 : half;
                       for (std::int64_t i = 0; i < half; ++i) {
                         const T a = from[i * stride];
                         const T b = from[i * stride + other];
                         to[i * stride] = cosine[i] * a - sine[i] * b;
                         to[i * stride + other] = sine[i] * a + cosine[i] * b;
                       }
                       std::copy_n(from + rotated, heads.size - rotated, to + rotated);
                     }
                   }
                 });
  });
  set_rounded(call, 0, y, type);
}

constexpr Operator kOperators[] = {
    {"", "Attention", 23, attention},
    {"", "LinearAttention", 27, linear_attention},
    {"", "RotaryEmbedding", 23, rotary_embedding},
    {"ai.onnx.preview", "FlexAttention", 1, flex_attention},
};

}  // namespace

std::span<const Operator> attention_operators() noexcept { return kOperators; }

}  // namespace moptcore::inline v0::graph
