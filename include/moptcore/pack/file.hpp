// SPDX-License-Identifier: Apache-2.0
// Standard safetensors files. A tensor that stays as it is has its own name, dtype and shape there;
// an encoded one is the U8 tensor "<name>::pack" with the bytes of `encode`. Where it makes the
// file at least 1 % smaller, tensors of at most 4096 such bytes share one line of the header, as
// the U8 tensor "::pack::pack":
//   varint bytes of the names; one stream (encoding.hpp) of them, each a varint length and UTF-8
//   for each name varint length and the bytes of `encode`
//   u32 CRC-32 of all bytes before it
// The metadata key "moptcore.pack" is "1", the version, and CRC-32 in 8 hexadecimal digits, each
// behind a space: that of all names, a byte of 0 behind each, and those of the bytes of the tensors
// that stay as they are. Both in the order of the names.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <moptcore/core/export.hpp>
#include <moptcore/core/tensor_view.hpp>
#include <moptcore/pack/encoding.hpp>

namespace moptcore::inline v0::pack {

using Metadata = std::map<std::string, std::string>;

/// A tensor to be saved.
struct Named {
  std::string name;
  AnyView tensor;
  Encoding encoding;
};

/// A tensor of a file.
struct Entry {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  std::string encoding;  ///< "dense", or "packed": what it is in full, `describe` says
  std::int64_t dense_bytes = 0;
  std::int64_t packed_bytes = 0;  ///< in the file, without its line in the header
};

/// Writes the tensors to `path`, at once: a reader sees the old file or the whole new one. A tensor
/// that its encoding does not shrink, or that is to be dense and plain, stays as it is; small ones
/// may be bundled. Where packing shrinks nothing the file is a plain one: it is never larger than
/// the safetensors file of the tensors as they are with the same metadata. Returns its bytes.
/// Throws Error for names that are not UTF-8, occur twice or end in "::pack" and for the metadata
/// key "moptcore.pack"; std::system_error where the file cannot be written.
MOPTCORE_API std::int64_t save(const std::string& path, std::span<const Named> tensors,
                               const Metadata& metadata = {});

/// A safetensors file, packed or plain, of ours or of anyone. It is read, never mapped, so a file
/// that shrinks meanwhile is an error and no signal.
class MOPTCORE_API Reader {
 public:
  /// Checks the whole header: lengths, offsets without overlap or gap, dtypes, shapes, names,
  /// what the metadata says, and for encoded tensors their bytes' checksum. Throws FormatError
  /// naming what is wrong, UnsupportedError for a dtype that moptcore lacks, std::system_error.
  explicit Reader(const std::string& path);

  /// The same of bytes in memory, which must stay there.
  explicit Reader(std::span<const std::uint8_t> bytes);

  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  /// In the order of their names.
  [[nodiscard]] const std::vector<Entry>& entries() const noexcept;
  /// Without "moptcore.pack".
  [[nodiscard]] const Metadata& metadata() const noexcept;
  [[nodiscard]] std::int64_t size() const noexcept;  ///< of the file, in bytes

  /// Reads entry `index` into `out`, which has its dtype and shape. Throws FormatError.
  void read(std::size_t index, const MutableAnyView& out) const;

  /// The coded streams of entry `index`; none of a tensor that is as it was.
  [[nodiscard]] Description describe(std::size_t index) const;

 private:
  struct File;
  std::unique_ptr<File> file_;
};

}  // namespace moptcore::inline v0::pack
