// SPDX-License-Identifier: Apache-2.0
// Files that appear whole or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "external.hpp"

namespace moptcore::inline v0::graph::onnx {

/// Collects small writes.
class FileWriter {
 public:
  FileWriter(int file, std::string path) : file_(file), path_(std::move(path)) {}
  void write(const char* data, std::size_t size);
  /// To the disk. Throws std::system_error, as `write` does.
  void finish();

 private:
  void write_all(const char* data, std::size_t size);

  int file_;
  std::string path_;
  std::string buffer_;
};

/// Writes a file beside `path` by `fill`, and renames it to `path`.
void replace_file(const std::string& path, const std::function<void(FileWriter&)>& fill);

/// Writes a file that must not exist yet; what could not be finished is removed.
void create_file(const std::string& path, const std::function<void(FileWriter&)>& fill);

}  // namespace moptcore::inline v0::graph::onnx
