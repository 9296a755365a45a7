// SPDX-License-Identifier: Apache-2.0
// ONNX files: a Model of their bytes, and back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/graph/model.hpp>

namespace moptcore::inline v0::graph {

/// The opsets of ONNX's own operators that are read, and the newest version of its format.
inline constexpr std::int64_t kOldestOpset = 7;
inline constexpr std::int64_t kNewestOpset = 28;
inline constexpr std::int64_t kNewestIr = 14;

struct LoadOptions {
  /// The folder of weights that lie in files of their own. Empty: the model's own folder for
  /// `load`; for `parse` there is none, and such weights are refused.
  std::string external_directory;
  /// Bytes that the model may take beside its file; 0: three times the file, and 32 MiB. External
  /// files add four times their own size.
  std::int64_t max_bytes = 0;
};

/// The model in a file. Weights stay where the file was read to, one copy in all. Files of IR
/// version 3 list all initializers as inputs: initializers are no inputs of theirs. Throws
/// std::system_error for what the system refuses; FormatError, naming the field, for bytes that are
/// no valid model; UnsupportedError for valid ones that are older or newer than what is read.
[[nodiscard]] MOPTCORE_API Model load(const std::string& path, const LoadOptions& options = {});

/// The model in `bytes`, of which nothing is kept.
[[nodiscard]] MOPTCORE_API Model parse(std::span<const std::uint8_t> bytes,
                                       const LoadOptions& options = {});

/// The most bytes of one message of protobuf, so of a file with all its weights.
inline constexpr std::int64_t kMaxMessage = (std::int64_t{1} << 31) - 1;

struct SaveOptions {
  /// The name of a file beside the model that the weights go into; it must not exist yet. Empty:
  /// they stay in the model.
  std::string external_file;
  /// Bytes from which on a weight goes there.
  std::int64_t external_from = 1024;
};

/// The bytes of an ONNX file. Throws Error beyond kMaxMessage.
[[nodiscard]] MOPTCORE_API std::vector<std::uint8_t> serialize(const Model& model);

/// Writes a file beside `path` and renames it, so that `path` is the old file or all of the new one
/// at any time. Throws std::system_error; Error for a model beyond kMaxMessage without an external
/// file, and for an external file that exists or is no plain name.
MOPTCORE_API void save(const Model& model, const std::string& path,
                       const SaveOptions& options = {});

}  // namespace moptcore::inline v0::graph
