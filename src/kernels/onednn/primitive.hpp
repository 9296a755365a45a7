// SPDX-License-Identifier: Apache-2.0
// Computations on float32 tensors of fixed shapes, prepared once and run often. The functions that
// make one return null where oneDNN has no fast way, and throw std::runtime_error where it fails.
// How many threads it takes is decided by the Threads around making and running it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/onednn/layout.hpp"

namespace moptcore::inline v0::kernels::onednn {

/// What oneDNN may use on this thread while it lives.
class Threads {
 public:
  explicit Threads(int count) noexcept;
  ~Threads();
  void set(int count) noexcept;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// A primitive with room for the addresses of one run: not to be shared by threads.
class Bound {
 public:
  Bound() = default;
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  virtual ~Bound();
  /// The inputs, the output, and scratch memory.
  virtual void run(void* const* buffers) = 0;
};

/// Lets oneDNN use no instruction set beyond that of core/isa. False where it has been used before
/// with another limit.
[[nodiscard]] bool limit_isa(std::string_view name);

class Primitive {
 public:
  Primitive() = default;
  Primitive(const Primitive&) = delete;
  Primitive& operator=(const Primitive&) = delete;
  virtual ~Primitive();
  [[nodiscard]] virtual std::unique_ptr<Bound> bind() const = 0;

  std::vector<Layout> inputs;  ///< how each of them has to lie
  Layout output;
  std::int64_t scratch_bytes = 0;
  std::string name;       ///< of the code that runs
  bool in_place = false;  ///< the output may lie where the first input does
};

using PrimitivePtr = std::shared_ptr<const Primitive>;

enum class Algorithm : std::uint8_t {
  // of one number x, with parameters a and b
  relu,  // x > 0 ? x : a x
  clip,  // min(max(x, a), b)
  sigmoid,
  tanh,
  swish,  // x sigmoid(a x)
  gelu_erf,
  gelu_tanh,
  elu,           // x > 0 ? x : a (exp(x) - 1)
  hard_sigmoid,  // max(0, min(1, a x + b))
  hard_swish,    // x hard_sigmoid(x)
  mish,
  linear,  // a x + b
  power,   // a x^b
  absolute,
  square_root,
  exponential,
  logarithm,
  // of two
  add,
  multiply,
  subtract,
  divide,
  maximum,
  minimum,
};

[[nodiscard]] constexpr bool is_binary(Algorithm algorithm) noexcept {
  return algorithm >= Algorithm::add;
}

/// Done to a result before it is stored.
struct Post {
  Algorithm algorithm;
  float a = 0;
  float b = 0;
  Layout operand;  ///< of binary ones: of the result's shape, extents 1 are repeated
};

struct ConvolutionShape {
  Shape weight;  ///< as ONNX has it
  Shape output;
  std::vector<std::int64_t> stride;
  std::vector<std::int64_t> dilation;
  std::vector<std::int64_t> before;
  std::vector<std::int64_t> after;
  std::int64_t groups = 1;
  bool transposed = false;  ///< ConvTranspose
};

/// Inputs: x, weight, the bias where there is one, then the operands of `posts`. The weight's
/// layout is one of its ONNX shape, or of [groups, ...] where there are groups.
[[nodiscard]] PrimitivePtr convolution(const Layout& x, const ConvolutionShape& shape, bool bias,
                                       std::span<const Post> posts);

/// x [rows, depth] times the transpose of weight [columns, depth].
[[nodiscard]] PrimitivePtr inner_product(const Layout& x, const Shape& weight, bool bias,
                                         std::span<const Post> posts);

/// Matrix products of the last two axes; a and b have the same rank, extents 1 before are repeated.
[[nodiscard]] PrimitivePtr matmul(const Layout& a, const Layout& b, const Layout& output,
                                  std::span<const Post> posts);

struct PoolShape {
  Shape output;
  std::vector<std::int64_t> kernel;
  std::vector<std::int64_t> stride;
  std::vector<std::int64_t> dilation;
  std::vector<std::int64_t> before;
  std::vector<std::int64_t> after;
  bool maximum = true;
  bool count_padding = false;
};

[[nodiscard]] PrimitivePtr pool(const Layout& x, const PoolShape& shape);

/// posts[0] decides; x lies as it likes and the output like x.
[[nodiscard]] PrimitivePtr elementwise(const Layout& x, std::span<const Post> posts);

[[nodiscard]] PrimitivePtr softmax(const Layout& x, int axis, bool logarithm);

/// Over the last axis of a row-major x; inputs x, scale, bias where there is one.
[[nodiscard]] PrimitivePtr layer_norm(const Layout& x, float epsilon, bool bias);

/// Inputs x, scale, bias, mean, variance.
[[nodiscard]] PrimitivePtr batch_norm(const Layout& x, float epsilon, bool relu);

[[nodiscard]] PrimitivePtr concat(std::span<const Layout> inputs, int axis);

/// The mean of some axes, which stay with extent 1.
[[nodiscard]] PrimitivePtr mean(const Layout& x, const Shape& output);

/// Nearest or linear, between centres of pixels.
[[nodiscard]] PrimitivePtr resample(const Layout& x, const Shape& output, bool linear);

/// The same elements in another layout of the same shape.
[[nodiscard]] PrimitivePtr reorder(const Layout& from, const Layout& to);

/// Copies a tensor from one layout to another.
void reorder(const Layout& from, const void* src, const Layout& to, void* dst);

/// How a weight has to be seen so that `reorder` can pack it: [groups, out / groups, ...].
[[nodiscard]] Layout grouped_weight(const ConvolutionShape& shape);

}  // namespace moptcore::inline v0::kernels::onednn
