// SPDX-License-Identifier: Apache-2.0
// oneDNN's product of bytes and int8 with sums of 32 bit, on the calling thread. Throws
// std::runtime_error where oneDNN refuses or fails.
#pragma once

#include <cstdint>
#include <memory>

namespace moptcore::inline v0::kernels::onednn {

/// Whether oneDNN multiplies bytes by any int8 exactly here: it uses AVX-512 with VNNI, which sums
/// four products in 32 bit. Elsewhere on x86 it adds two products in 16 bit, saturating.
[[nodiscard]] bool sums_bytes_exactly() noexcept;

/// Weights in the layout that oneDNN chose for products with up to `rows` rows.
class ByteProduct {
 public:
  /// `weight` is [outputs, inputs], contiguous, and only read here.
  ByteProduct(std::int64_t rows, std::int64_t inputs, std::int64_t outputs,
              const std::int8_t* weight);
  ByteProduct(ByteProduct&&) noexcept;
  ~ByteProduct();

  /// sums [rows, outputs] = x [rows, inputs] times the weights, transposed. Any threads at once.
  void multiply(std::int64_t rows, const std::uint8_t* x, std::int32_t* sums) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace moptcore::inline v0::kernels::onednn
