// SPDX-License-Identifier: Apache-2.0
#include <moptcore/distill/feature.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include "distill/kept_rows.hpp"
#include "distill/product.hpp"
#include "kernels/squared_error.hpp"
#include "kernels/strided.hpp"

namespace moptcore::inline v0::distill {
namespace {

constexpr auto kWhere = "distill.feature_loss";
constexpr std::int64_t kGrain = 4 * kernels::kScratch;

double squared_error(const float* a, const float* b, std::int64_t n, float scale, float* grad) {
  return kernels::squared_error_f32(a, b, n, scale, grad);
}

double squared_error(const double* a, const double* b, std::int64_t n, double scale, double* grad) {
  return kernels::squared_error_f64(a, b, n, scale, grad);
}

// A tensor as contiguous T: its own memory where it is so, else a copy.
template <class T>
class Contiguous {
 public:
  explicit Contiguous(const AnyView& view) : data_(static_cast<const T*>(view.data())) {
    if (view.dtype() == dtype_of<T>() && view.is_contiguous()) return;
    memory_ = pool_allocate(view.size() * static_cast<std::int64_t>(sizeof(T)));
    auto* copy = static_cast<T*>(memory_.get());
    data_ = copy;
    parallel_for(view.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
      kernels::load(view, first, last - first, copy + first);
    });
  }

  [[nodiscard]] const T* data() const noexcept { return data_; }

 private:
  PoolBuffer memory_;
  const T* data_;
};

// Memory that a result is computed in: its own where it is contiguous T, else scratch to store.
template <class T>
class Result {
 public:
  explicit Result(const MutableAnyView& view) : view_(view), data_(static_cast<T*>(view.data())) {
    if (view.dtype() == dtype_of<T>() && view.is_contiguous()) return;
    memory_ = pool_allocate(view.size() * static_cast<std::int64_t>(sizeof(T)));
    data_ = static_cast<T*>(memory_.get());
  }

  [[nodiscard]] T* data() const noexcept { return data_; }
  void clear() const noexcept { std::fill_n(data_, view_.size(), T(0)); }

  void finish() const {
    if (!memory_) return;
    parallel_for(view_.size(), kGrain, [&](std::int64_t first, std::int64_t last) {
      kernels::store(data_ + first, first, last - first, view_);
    });
  }

 private:
  MutableAnyView view_;
  PoolBuffer memory_;
  T* data_;
};

void check_floating(const AnyView& view, const char* argument) {
  check<DTypeError>(is_floating(view.dtype()), kWhere,
                    std::string(argument) + " must be float64, float32, float16 or bfloat16",
                    name(view.dtype()));
}

// A gradient must match what it is the gradient of.
void check_like(const AnyView& view, const AnyView& like, const std::string& argument,
                const std::string& source) {
  check<DTypeError>(
      view.dtype() == like.dtype(), kWhere,
      argument + " must have the " + source + "'s dtype " + std::string(name(like.dtype())),
      name(view.dtype()));
  check(view.shape() == like.shape(), kWhere,
        argument + " must have the " + source + "'s shape " + shape_text(like.shape()),
        view.shape());
}

template <class T>
double elementwise(const AnyView& student, const AnyView& teacher, const MutableAnyView& grad) {
  const std::int64_t n = student.size();
  if (n == 0) return 0.0;
  const T scale = static_cast<T>(2.0 / static_cast<double>(n));
  std::vector<double> sums(static_cast<std::size_t>(block_count(n, kGrain)));
  parallel_blocks(n, kGrain, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    T scratch[3][kernels::kScratch];
    double sum = 0.0;
    for (std::int64_t at = first; at < last; at += kernels::kScratch) {
      const std::int64_t count = std::min(kernels::kScratch, last - at);
      T* const to = kernels::writable_block(grad, at, scratch[2]);
      sum += squared_error(kernels::block(student, at, count, scratch[0]),
                           kernels::block(teacher, at, count, scratch[1]), count, scale, to);
      if (to == scratch[2]) kernels::store(to, at, count, grad);
    }
    sums[static_cast<std::size_t>(block)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total / static_cast<double>(n);
}

template <class T>
double adapted(const AnyView& student, const AnyView& teacher,
               const FeatureAdaptor<AnyView>& adaptor, const MutableAnyView& grad,
               const FeatureAdaptor<MutableAnyView>& adaptor_grad) {
  const std::int64_t out = adaptor.weight.shape()[0];
  const std::int64_t in = adaptor.weight.shape()[1];
  const std::int64_t rows = teacher.size() / out;
  const Contiguous<T> s(student);
  const Contiguous<T> weight(adaptor.weight);

  const PoolBuffer memory = pool_allocate(rows * out * static_cast<std::int64_t>(sizeof(T)));
  T* const step = static_cast<T*>(memory.get());  // the adapted features, then d loss / d them
  std::vector<T> bias(static_cast<std::size_t>(out));
  if (adaptor.bias) kernels::load(*adaptor.bias, 0, out, bias.data());
  for (std::int64_t row = 0; row < rows; ++row) std::ranges::copy(bias, step + row * out);
  product<T>(rows, out, in, {s.data(), in, 1}, {weight.data(), 1, in}, {step, out, 1});

  const AnyView features(step, dtype_of<T>(), teacher.shape());
  const MutableAnyView in_place(step, dtype_of<T>(), teacher.shape());
  const double loss = elementwise<T>(features, teacher, in_place);

  const Result<T> weight_grad(adaptor_grad.weight);
  weight_grad.clear();
  product<T>(out, in, rows, {step, 1, out}, {s.data(), in, 1}, {weight_grad.data(), in, 1});
  weight_grad.finish();
  if (adaptor_grad.bias) {
    std::vector<double> sums(static_cast<std::size_t>(out));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t col = 0; col < out; ++col) {
        sums[static_cast<std::size_t>(col)] += static_cast<double>(step[row * out + col]);
      }
    }
    kernels::store(sums.data(), 0, out, *adaptor_grad.bias);
  }
  // Last, because `grad` may be the student.
  const Result<T> student_grad(grad);
  student_grad.clear();
  product<T>(rows, in, out, {step, out, 1}, {weight.data(), in, 1}, {student_grad.data(), in, 1});
  student_grad.finish();
  return loss;
}

void check_adaptor(const AnyView& student, const AnyView& teacher,
                   const FeatureAdaptor<AnyView>& adaptor,
                   const FeatureAdaptor<MutableAnyView>& adaptor_grad) {
  check_floating(adaptor.weight, "adaptor");
  check(adaptor.weight.rank() == 2, kWhere, "adaptor must have two dimensions [out, in]",
        adaptor.weight.shape());
  const std::int64_t out = adaptor.weight.shape()[0];
  const std::int64_t in = adaptor.weight.shape()[1];
  check(out > 0 && in > 0, kWhere, "adaptor must not be empty", adaptor.weight.shape());
  check(student.rank() >= 1 && student.shape().back() == in, kWhere,
        "student must have the adaptor's " + std::to_string(in) + " inputs in its last axis",
        student.shape());
  Shape expected = student.shape();
  expected[expected.rank() - 1] = out;
  check(teacher.shape() == expected, kWhere,
        "teacher must have the adapted shape " + shape_text(expected), teacher.shape());
  check_like(adaptor_grad.weight, adaptor.weight, "the adaptor's gradient", "adaptor");
  check(adaptor.bias.has_value() == adaptor_grad.bias.has_value(), kWhere,
        "the bias and its gradient must be given together");
  if (adaptor.bias) {
    check_floating(*adaptor.bias, "bias");
    check(adaptor.bias->shape() == Shape{out}, kWhere,
          "bias must have the adaptor's outputs " + shape_text(Shape{out}), adaptor.bias->shape());
    check_like(*adaptor_grad.bias, *adaptor.bias, "the bias's gradient", "bias");
  }
}

void check_features(const AnyView& student, const AnyView& teacher, const MutableAnyView& grad) {
  check_floating(student, "student");
  check_floating(teacher, "teacher");
  check_like(grad, student, "out", "student");
  check_no_partial_overlap(student, grad, kWhere, "out");
  check_no_partial_overlap(teacher, grad, kWhere, "out");
}

void check_disjoint(const AnyView& one, const AnyView& other) {
  const auto [first, last] = extent_of(one);
  const auto [other_first, other_last] = extent_of(other);
  check(last <= other_first || other_last <= first, kWhere,
        "the gradients must not overlap each other or another input");
}

KeptRows kept_rows(const AnyView& mask, const AnyView& student) {
  check(student.rank() >= 1, kWhere, "student must have rows for a mask", student.shape());
  return {mask, without_axis(student.shape(), student.rank() - 1), kWhere};
}

bool wide(const AnyView& student, const AnyView& teacher) {
  return student.dtype() == DType::float64 || teacher.dtype() == DType::float64;
}

}  // namespace

double feature_loss(const AnyView& student, const AnyView& teacher, const MutableAnyView& grad,
                    const std::optional<AnyView>& mask) {
  check_features(student, teacher, grad);
  check(teacher.shape() == student.shape(), kWhere,
        "teacher must have the student's shape " + shape_text(student.shape()), teacher.shape());
  if (mask) {
    const KeptRows rows = kept_rows(*mask, student);
    auto s = rows.pack(student);
    auto t = rows.pack(teacher);
    auto g = rows.empty(grad);
    const double loss = feature_loss(s.view(), t.view(), g.view());
    rows.spread(g, grad);
    return loss;
  }
  return wide(student, teacher) ? elementwise<double>(student, teacher, grad)
                                : elementwise<float>(student, teacher, grad);
}

double feature_loss(const AnyView& student, const AnyView& teacher,
                    const FeatureAdaptor<AnyView>& adaptor, const MutableAnyView& grad,
                    const FeatureAdaptor<MutableAnyView>& adaptor_grad,
                    const std::optional<AnyView>& mask) {
  check_features(student, teacher, grad);
  check_adaptor(student, teacher, adaptor, adaptor_grad);
  const std::vector<AnyView> inputs = adaptor.bias
                                          ? std::vector<AnyView>{adaptor.weight, *adaptor.bias}
                                          : std::vector<AnyView>{adaptor.weight};
  std::vector<AnyView> outputs = {grad, adaptor_grad.weight};
  if (adaptor_grad.bias) outputs.emplace_back(*adaptor_grad.bias);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (const AnyView& input : inputs) check_disjoint(input, outputs[i]);
    for (std::size_t j = 0; j < i; ++j) check_disjoint(outputs[j], outputs[i]);
    if (i == 0) continue;
    check_disjoint(student, outputs[i]);
    check_disjoint(teacher, outputs[i]);
  }
  if (mask) {
    const KeptRows rows = kept_rows(*mask, student);
    auto s = rows.pack(student);
    auto t = rows.pack(teacher);
    auto g = rows.empty(grad);
    const double loss = feature_loss(s.view(), t.view(), adaptor, g.view(), adaptor_grad);
    rows.spread(g, grad);
    return loss;
  }
  return wide(student, teacher) ? adapted<double>(student, teacher, adaptor, grad, adaptor_grad)
                                : adapted<float>(student, teacher, adaptor, grad, adaptor_grad);
}

}  // namespace moptcore::inline v0::distill
