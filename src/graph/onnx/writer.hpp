// SPDX-License-Identifier: Apache-2.0
// A model as bytes, in two passes: the first finds the length of every message, the second writes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph::onnx {

/// Where the elements of a tensor lie in the external file, by their address.
struct Place {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};
using Places = std::map<const void*, Place>;

/// Writes fields. Both passes call the same functions in the same order.
class Writer {
 public:
  using Output = std::function<void(const char*, std::size_t)>;

  void integer(int field, std::int64_t value);
  void single(int field, float value);
  void bytes(int field, std::string_view value);
  /// Leaves out an empty text, which is the default.
  void text(int field, std::string_view value) {
    if (!value.empty()) bytes(field, value);
  }
  /// Fields with their tags.
  void encoded(std::string_view fields) { put(fields.data(), fields.size()); }

  template <class F>
  void message(int field, F&& body) {
    if (output_ == nullptr) {
      const std::size_t slot = lengths_.size();
      lengths_.push_back(0);
      const std::int64_t before = size_;
      body();
      lengths_[slot] = size_ - before;
      begin_bytes(field, lengths_[slot]);
      return;
    }
    begin_bytes(field, lengths_[next_++]);
    body();
  }

  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  /// From now on bytes go to `output`.
  void begin(const Output& output) {
    output_ = &output;
    next_ = 0;
  }

 private:
  void begin_bytes(int field, std::int64_t length);
  void varint(std::uint64_t value);
  void put(const char* data, std::size_t size) {
    if (output_ == nullptr) size_ += static_cast<std::int64_t>(size);
    else (*output_)(data, size);
  }

  const Output* output_ = nullptr;
  std::int64_t size_ = 0;
  std::vector<std::int64_t> lengths_;
  std::size_t next_ = 0;
};

/// `external` names the file of `places`.
void write_model(Writer& writer, const Model& model, const Places& places,
                 std::string_view external);

/// Calls f(tensor) with every tensor of a model that has bytes: initializers and attributes, of
/// subgraphs and functions too.
void for_each_tensor(const Model& model, const std::function<void(const Tensor&)>& f);

}  // namespace moptcore::inline v0::graph::onnx
