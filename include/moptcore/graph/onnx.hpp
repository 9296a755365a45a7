// SPDX-License-Identifier: Apache-2.0
// ONNX files: a Model of their bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

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

/// The model in a file. Weights stay where the file was read to, one copy in all. Throws
/// std::system_error for what the system refuses; FormatError, naming the field, for bytes that are
/// no valid model; UnsupportedError for valid ones that are older or newer than what is read.
[[nodiscard]] MOPTCORE_API Model load(const std::string& path, const LoadOptions& options = {});

/// The model in `bytes`, of which nothing is kept.
[[nodiscard]] MOPTCORE_API Model parse(std::span<const std::uint8_t> bytes,
                                       const LoadOptions& options = {});

}  // namespace moptcore::inline v0::graph
