// SPDX-License-Identifier: Apache-2.0
// What the parts of the reader share: limits, the memory of the file, external files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <moptcore/graph/model.hpp>

#include "external.hpp"
#include "wire.hpp"

namespace moptcore::inline v0::graph::onnx {

/// Bytes that the model may still take.
class Budget {
 public:
  explicit Budget(std::int64_t limit) : limit_(limit), left_(limit) {}

  void charge(std::int64_t bytes, const Path& path) {
    require<Error>(bytes <= left_, path,
                   "must fit in the memory that the model may take beside its file (max_bytes)",
                   limit_);
    left_ -= bytes;
  }
  void extend(std::int64_t bytes) {
    limit_ += bytes;
    left_ += bytes;
  }

 private:
  std::int64_t limit_;
  std::int64_t left_;
};

struct Context {
  Budget budget;
  ExternalFiles external;
  /// The bytes of the file where tensors may share and move them; null: tensors copy.
  std::shared_ptr<void> owner;
  std::int64_t nodes = 0;
};

/// A name of at most 64 KiB of UTF-8, charged to the budget.
[[nodiscard]] std::string read_name(Bytes bytes, const Path& above, std::string_view field,
                                    Context& context);

/// Any bytes.
[[nodiscard]] std::string read_text(Bytes bytes, const Path& path, Context& context);

/// Adds a field that this version does not know.
void keep_unknown(const Message& field, std::string& unknown, Context& context);

void read_entry(Bytes bytes, const Path& path, Metadata& metadata, Context& context);

}  // namespace moptcore::inline v0::graph::onnx
