// SPDX-License-Identifier: Apache-2.0
// Fields of protobuf messages, one after the other, each checked before it is used.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include <moptcore/core/check.hpp>

#include <protozero/exception.hpp>
#include <protozero/types.hpp>
#include <protozero/varint.hpp>

namespace moptcore::inline v0::graph::onnx {

using Bytes = std::span<const std::uint8_t>;

/// Where in a model the reader is: a list along the call stack, made a text for errors only.
struct Path {
  const Path* above = nullptr;
  std::string_view field;
  std::int64_t index = -1;

  [[nodiscard]] std::string text() const {
    std::string out = above == nullptr ? std::string() : above->text();
    if (!out.empty() && !field.empty()) out += '.';
    out += field;
    if (index >= 0) out += '[' + std::to_string(index) + ']';
    return out;
  }
};

constexpr auto kLoad = "graph.load";

/// Throws E("[graph.load] graph.node[3].name rule, got value") unless `ok`.
template <class E = FormatError, class Got>
void require(bool ok, const Path& path, std::string_view rule, const Got& got) {
  if (!ok) [[unlikely]] {
    std::string at = path.text();
    if (at.empty()) at = "the model";
    throw E(error_text(kLoad, at.append(" ").append(rule), got));
  }
}

/// A message: `next` steps to a field and reads all of it.
class Message {
 public:
  using Wire = protozero::pbf_wire_type;

  Message(Bytes bytes, const Path& path)
      : at_(reinterpret_cast<const char*>(bytes.data())), end_(at_ + bytes.size()), path_(&path) {}

  bool next() {
    if (at_ == end_) return false;
    start_ = at_;
    const std::uint64_t tag = read_varint();
    number_ = static_cast<int>(tag >> 3);
    wire_ = static_cast<Wire>(tag & 7);
    require(tag >> 3 > 0 && tag >> 3 < 1u << 29, *path_, "must have field numbers in [1, 2^29)",
            tag >> 3);
    std::uint64_t length = 0;
    switch (wire_) {
      case Wire::varint: value_ = read_varint(); return true;
      case Wire::fixed32: length = 4; break;
      case Wire::fixed64: length = 8; break;
      case Wire::length_delimited: length = read_varint(); break;
      default: require(false, *path_, "must have fields of wire type 0, 1, 2 or 5", tag & 7);
    }
    require(length <= static_cast<std::uint64_t>(end_ - at_), *path_,
            "must not end before its fields do, bytes missing",
            length - static_cast<std::uint64_t>(end_ - at_));
    body_ = {reinterpret_cast<const std::uint8_t*>(at_), static_cast<std::size_t>(length)};
    at_ += length;
    return true;
  }

  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] Wire wire() const noexcept { return wire_; }
  [[nodiscard]] const Path& path() const noexcept { return *path_; }

  /// The field with its tag, as it was read.
  [[nodiscard]] std::string_view encoded() const noexcept {
    return {start_, static_cast<std::size_t>(at_ - start_)};
  }

  [[nodiscard]] std::int64_t integer(std::string_view field) const {
    expect(Wire::varint, field);
    return static_cast<std::int64_t>(value_);
  }
  [[nodiscard]] float single(std::string_view field) const {
    expect(Wire::fixed32, field);
    float value = 0;
    std::memcpy(&value, body_.data(), sizeof value);
    return value;
  }
  [[nodiscard]] Bytes bytes(std::string_view field) const {
    expect(Wire::length_delimited, field);
    return body_;
  }

  /// Calls f(value) with each integer of a repeated field, packed or not.
  template <class F>
  void each_integer(std::string_view field, F&& f) const {
    if (wire_ == Wire::varint) return f(static_cast<std::int64_t>(value_));
    expect(Wire::length_delimited, field);
    const char* at = reinterpret_cast<const char*>(body_.data());
    const char* const end = at + body_.size();
    while (at != end) f(static_cast<std::int64_t>(read_varint(&at, end)));
  }

  /// How many they are.
  [[nodiscard]] std::int64_t integer_count(std::string_view field) const {
    if (wire_ == Wire::varint) return 1;
    expect(Wire::length_delimited, field);
    std::int64_t count = 0;
    for (const std::uint8_t byte : body_) count += (byte & 0x80) == 0;
    return count;
  }

  /// The bytes of a repeated field of floats or doubles, packed or not.
  template <class T>
  [[nodiscard]] Bytes fixed(std::string_view field) const {
    if (wire_ != (sizeof(T) == 4 ? Wire::fixed32 : Wire::fixed64)) {
      expect(Wire::length_delimited, field);
      require(body_.size() % sizeof(T) == 0, *path_,
              std::string(field) + " must have whole elements, bytes", body_.size());
    }
    return body_;
  }

 private:
  std::uint64_t read_varint() { return read_varint(&at_, end_); }

  std::uint64_t read_varint(const char** at, const char* end) const {
    try {
      return protozero::decode_varint(at, end);
    } catch (const protozero::exception&) {
      require(false, *path_, "must have whole varints of at most 10 bytes, got one of bytes",
              end - *at);
    }
    return 0;
  }

  void expect(Wire wire, std::string_view field) const {
    require(wire_ == wire, *path_, std::string(field) + " must have its own wire type",
            static_cast<int>(wire_));
  }

  const char* at_;
  const char* end_;
  const Path* path_;
  const char* start_ = nullptr;
  int number_ = 0;
  Wire wire_ = Wire::unknown;
  std::uint64_t value_ = 0;
  Bytes body_;
};

}  // namespace moptcore::inline v0::graph::onnx
