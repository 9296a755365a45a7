// SPDX-License-Identifier: Apache-2.0
// Files beside a model that hold its weights: opened below one folder only, whatever a model says.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <sys/types.h>

#include "wire.hpp"

namespace moptcore::inline v0::graph::onnx {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) noexcept : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();
  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] bool is_open() const noexcept { return number_ >= 0; }

 private:
  int number_ = -1;
};

/// The names of a path below a folder: relative, no "." or "..", no NUL. Throws FormatError.
void check_location(std::string_view location, const Path& path);

/// Opens a regular file below `folder` without following a link anywhere in `location`; a file with
/// another name (a hard link) is refused too. Throws FormatError; std::system_error.
[[nodiscard]] Descriptor open_below(int folder, const std::string& location, const Path& path);

/// A whole file in memory of its own.
struct FileBytes {
  std::shared_ptr<void> owner;
  Bytes bytes;
};

/// Throws std::system_error; FormatError for anything but a regular file.
[[nodiscard]] FileBytes read_file(const std::string& path);

class ExternalFiles {
 public:
  /// Nothing can be read.
  ExternalFiles() = default;
  /// What lies below `folder`, which is opened when the first tensor needs it.
  explicit ExternalFiles(std::string folder) : folder_(std::move(folder)), enabled_(true) {}

  /// Makes `location` the file that `read` reads, and gives its size; `is_new` tells whether this
  /// is the first time.
  std::int64_t open(const std::string& location, const Path& path, bool& is_new);
  void read(void* out, std::int64_t offset, std::int64_t bytes, const Path& path);

 private:
  std::string folder_;
  bool enabled_ = false;
  Descriptor directory_;
  std::string location_;  // of the file that is open: tensors of one file follow each other
  Descriptor file_;
  std::map<std::string, std::int64_t> sizes_;
};

}  // namespace moptcore::inline v0::graph::onnx
