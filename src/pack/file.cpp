// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/file.hpp>

#include <moptcore/core/copy.hpp>
#include <moptcore/core/pool.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "bytes.hpp"
#include "safetensors.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr auto kSave = "pack.save";
constexpr std::string_view kKey = "moptcore.pack";
constexpr std::string_view kSuffix = "::pack";
constexpr std::size_t kPrefix = 8;  // the length of the header

[[noreturn]] void fail(const std::string& path) {
  throw std::system_error(errno, std::generic_category(), path);
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, mode_t mode = 0)
      : number_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (number_ < 0) fail(path);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(number_); }
  [[nodiscard]] int number() const noexcept { return number_; }

 private:
  int number_;
};

void write_all(int file, const void* data, std::size_t size, const std::string& path) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t done = ::write(file, at, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(path);
    at += done;
    size -= static_cast<std::size_t>(done);
  }
}

std::string shape_text(const Shape& shape) {
  std::string out = "[";
  for (int axis = 0; axis < shape.rank(); ++axis) {
    out += (axis == 0 ? "" : ",") + std::to_string(shape[axis]);
  }
  return out + ']';
}

std::string text_of(const Description& description) {
  return std::string(v0::name(description.dtype)) + shape_text(description.shape) + ' ' +
         description.encoding;
}

std::string dense_text(std::uint32_t crc) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "dense ";
  for (int shift = 28; shift >= 0; shift -= 4) out += kHex[crc >> shift & 15];
  return out;
}

// A tensor on its way into a file.
struct Packed {
  const Named* source = nullptr;
  PoolBuffer copy;
  ByteSpan dense;
  Bytes encoded;  // empty: stays as it is
  std::string text;
};

Packed pack_one(const Named& named) {
  Packed packed;
  packed.source = &named;
  const AnyView& tensor = named.tensor;
  const std::int64_t bytes = byte_count(tensor.dtype(), tensor.size());
  const void* data = tensor.data();
  if (!tensor.is_contiguous()) {
    packed.copy = pool_allocate(std::max<std::int64_t>(bytes, 1));
    copy_elements(tensor, MutableAnyView(packed.copy.get(), tensor.dtype(), tensor.shape()));
    data = packed.copy.get();
  }
  packed.dense = {static_cast<const std::uint8_t*>(data), static_cast<std::size_t>(bytes)};
  packed.text = dense_text(crc32(packed.dense));
  const Encoding& encoding = named.encoding;
  const bool as_is = !encoding.any_layout && !encoding.any_values &&
                     encoding.layout == Layout::dense && encoding.values == Values::raw &&
                     encoding.coder == Coder::raw;
  if (as_is || bytes == 0) return packed;
  Bytes encoded = encode(AnyView(data, tensor.dtype(), tensor.shape()), encoding);
  const Description description = describe(encoded);
  std::string text = text_of(description);
  // What an encoded tensor adds to the header is paid for by its bytes.
  const std::size_t extra =
      kSuffix.size() + std::max(text.size(), packed.text.size()) - packed.text.size() + 8;
  if (encoded.size() + extra < packed.dense.size()) {
    packed.encoded = std::move(encoded);
    packed.text = std::move(text);
  }
  return packed;
}

struct Plan {
  std::string header;
  std::vector<ByteSpan> parts;
  std::int64_t bytes = 0;
};

// Wider elements first, so that each tensor begins at a multiple of its element; otherwise as the
// safetensors package orders dtypes, so that offsets have as many digits as in its files.
int file_order(DType dtype) {
  constexpr std::array kOrder = {DType::uint64, DType::int64, DType::float64,  DType::float32,
                                 DType::uint32, DType::int32, DType::bfloat16, DType::float16,
                                 DType::uint16, DType::int16, DType::int8,     DType::uint8,
                                 DType::boolean};
  return static_cast<int>(std::find(kOrder.begin(), kOrder.end(), dtype) - kOrder.begin());
}

Plan plan_of(const std::vector<Packed>& tensors, Metadata metadata, bool packed) {
  std::vector<std::pair<Line, ByteSpan>> lines;
  Strings encodings;
  for (const Packed& tensor : tensors) {
    const bool encoded = packed && !tensor.encoded.empty();
    const std::string& name = tensor.source->name;
    Line line;
    line.name = encoded ? name + std::string(kSuffix) : name;
    line.dtype = encoded ? "U8" : safetensors_name(tensor.source->tensor.dtype());
    const ByteSpan bytes = encoded ? ByteSpan(tensor.encoded) : tensor.dense;
    if (encoded) line.shape = {static_cast<std::int64_t>(bytes.size())};
    else line.shape = tensor.source->tensor.shape();
    encodings[name] = tensor.text;
    lines.emplace_back(std::move(line), bytes);
  }
  std::sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) {
    return std::pair(file_order(dtype_named(a.first)), a.first.name) <
           std::pair(file_order(dtype_named(b.first)), b.first.name);
  });
  Plan plan;
  std::uint64_t next = 0;
  std::vector<Line> ordered;
  for (auto& [line, bytes] : lines) {
    line.first = next;
    line.last = next += bytes.size();
    plan.parts.push_back(bytes);
    ordered.push_back(line);
  }
  if (packed) metadata[std::string(kKey)] = encodings_text(encodings);
  plan.header = header_text(metadata, ordered);
  check(plan.header.size() <= kMostHeader, kSave, "the header must have at most 100000000 bytes",
        plan.header.size());
  plan.bytes = static_cast<std::int64_t>(kPrefix + plan.header.size() + next);
  return plan;
}

void write_file(const std::string& path, const Plan& plan) {
  static std::atomic<unsigned> counter{0};
  const std::string temporary =
      path + ".tmp-" + std::to_string(::getpid()) + '-' + std::to_string(counter.fetch_add(1));
  try {
    const Descriptor file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    std::array<std::uint8_t, kPrefix> length;
    for (std::size_t i = 0; i < kPrefix; ++i) {
      length[i] = static_cast<std::uint8_t>(plan.header.size() >> (8 * i));
    }
    write_all(file.number(), length.data(), length.size(), temporary);
    write_all(file.number(), plan.header.data(), plan.header.size(), temporary);
    for (const ByteSpan part : plan.parts) {
      write_all(file.number(), part.data(), part.size(), temporary);
    }
    if (::fsync(file.number()) != 0) fail(temporary);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) fail(path);
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
}

}  // namespace

std::int64_t save(const std::string& path, std::span<const Named> tensors,
                  const Metadata& metadata) {
  std::set<std::string> names;
  for (const Named& named : tensors) {
    check(is_utf8(named.name), kSave, "a name must be UTF-8");
    check(named.name != "__metadata__", kSave, "a name must not be", "'__metadata__'");
    check(!named.name.ends_with(kSuffix), kSave, "a name must not end in ::pack",
          '\'' + named.name + '\'');
    check(names.insert(named.name).second, kSave, "a name must occur once",
          '\'' + named.name + '\'');
    check<DTypeError>(!is_packed(named.tensor.dtype()), kSave,
                      "a tensor must not be of a packed dtype", name(named.tensor.dtype()));
  }
  for (const auto& [key, value] : metadata) {
    check(is_utf8(key) && is_utf8(value), kSave, "metadata must be UTF-8");
    check(key != kKey, kSave, "the metadata key 'moptcore.pack' must be left to moptcore");
  }
  std::vector<Packed> packed;
  for (const Named& named : tensors) {
    try {
      packed.push_back(pack_one(named));
    } catch (const DTypeError& error) {
      throw DTypeError(std::string(error.what()) + " (tensor '" + named.name + "')");
    } catch (const Error& error) {
      throw Error(std::string(error.what()) + " (tensor '" + named.name + "')");
    }
  }
  const Plan small = plan_of(packed, metadata, true);
  const Plan plain = plan_of(packed, metadata, false);
  const Plan& best = small.bytes < plain.bytes ? small : plain;
  write_file(path, best);
  return best.bytes;
}

struct Reader::File {
  std::string path;
  std::optional<Descriptor> file;
  ByteSpan bytes;  // where there is no file
  std::int64_t size = 0;
  std::int64_t data = 0;  // where the data begin
  Metadata metadata;
  std::vector<Entry> entries;
  std::vector<Line> lines;                         // of the entries
  std::vector<std::optional<std::uint32_t>> sums;  // checksums of those that are as they were

  void read_at(std::int64_t offset, void* out, std::size_t count) const {
    if (!file) {
      std::copy_n(bytes.data() + offset, count, static_cast<std::uint8_t*>(out));
      return;
    }
    auto* at = static_cast<char*>(out);
    while (count > 0) {
      const ssize_t done = ::pread(file->number(), at, count, offset);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) fail(path);
      check<FormatError>(done > 0, kRead, "the file must not shrink while it is read");
      at += done;
      offset += done;
      count -= static_cast<std::size_t>(done);
    }
  }

  [[nodiscard]] Bytes read_line(const Line& line) const {
    Bytes out(static_cast<std::size_t>(line.last - line.first));
    read_at(data + static_cast<std::int64_t>(line.first), out.data(), out.size());
    return out;
  }

  void open() {
    check<FormatError>(size >= static_cast<std::int64_t>(kPrefix), kRead,
                       "a safetensors file must have at least 8 bytes", size);
    std::array<std::uint8_t, kPrefix> prefix;
    read_at(0, prefix.data(), prefix.size());
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < kPrefix; ++i) length |= std::uint64_t{prefix[i]} << (8 * i);
    check<FormatError>(length <= kMostHeader, kRead, "the header must have at most 100000000 bytes",
                       length);
    check<FormatError>(length <= static_cast<std::uint64_t>(size) - kPrefix, kRead,
                       "the header must end before the file of " + std::to_string(size) + " bytes",
                       length);
    std::string json(static_cast<std::size_t>(length), '\0');
    read_at(kPrefix, json.data(), json.size());
    data = static_cast<std::int64_t>(kPrefix + length);
    Header header = parse_header(json, static_cast<std::uint64_t>(size - data));
    metadata = std::move(header.metadata);
    list(header.lines);
  }

  void list(std::vector<Line>& found) {
    std::map<std::string, Line*> by_name;
    for (Line& line : found) by_name[line.name] = &line;
    if (const auto ours = metadata.find(std::string(kKey)); ours != metadata.end()) {
      const Strings encodings = parse_encodings(ours->second);
      metadata.erase(ours);
      for (const auto& [name, text] : encodings) {
        const bool dense = text.starts_with("dense ");
        const auto line = by_name.find(dense ? name : name + std::string(kSuffix));
        check<FormatError>(line != by_name.end(), kRead,
                           "every tensor that the metadata names must be there",
                           '\'' + name.substr(0, 80) + '\'');
        if (dense) add_dense(*line->second, text);
        else add_encoded(name, text, *line->second);
        by_name.erase(line);
      }
      check<FormatError>(by_name.empty(), kRead,
                         "the metadata must name every tensor; tensors that it does not",
                         by_name.size());
    } else {
      for (const auto& [name, line] : by_name) add_dense(*line, {});
    }
  }

  void add_dense(Line& line, std::string_view text) {
    std::optional<std::uint32_t> sum;
    if (!text.empty()) {
      std::uint32_t value = 0;
      for (const char c : text.substr(6)) {
        value = value * 16 + static_cast<std::uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
      }
      check<FormatError>(text == dense_text(value), kRead,
                         "a tensor that is as it was must have 'dense' and 8 hexadecimal digits",
                         text.size());
      sum = value;
    }
    const auto bytes = static_cast<std::int64_t>(line.last - line.first);
    // A dtype that moptcore lacks is an error when its tensor is read, not for the others.
    const bool known = [&] {
      try {
        static_cast<void>(dtype_named(line));
        return true;
      } catch (const UnsupportedError&) {
        return false;
      }
    }();
    entries.push_back({line.name, known ? dtype_named(line) : DType::uint8, line.shape,
                       known ? "dense" : line.dtype, bytes, bytes});
    lines.push_back(line);
    sums.push_back(sum);
  }

  void add_encoded(const std::string& name, const std::string& text, Line& line) {
    check<FormatError>(line.dtype == "U8" && line.shape.rank() == 1, kRead,
                       "an encoded tensor must be U8 with one dimension", line.dtype);
    const Bytes encoded = read_line(line);
    const Description description = describe_header(encoded);
    const std::string start =
        std::string(v0::name(description.dtype)) + shape_text(description.shape) + ' ';
    check<FormatError>(text.starts_with(start), kRead,
                       "the metadata must state dtype and shape that the bytes have, " + start,
                       text.substr(0, 80));
    entries.push_back({name, description.dtype, description.shape, text.substr(start.size()),
                       description.dense_bytes, description.packed_bytes});
    lines.push_back(line);
    sums.emplace_back();
  }
};

Reader::Reader(const std::string& path) : file_(std::make_unique<File>()) {
  file_->path = path;
  file_->file.emplace(path, O_RDONLY | O_NONBLOCK);
  struct stat facts{};
  if (::fstat(file_->file->number(), &facts) != 0) fail(path);
  check<FormatError>(S_ISREG(facts.st_mode), kRead, "path must be a regular file", path);
  file_->size = facts.st_size;
  file_->open();
}

Reader::Reader(std::span<const std::uint8_t> bytes) : file_(std::make_unique<File>()) {
  file_->bytes = bytes;
  file_->size = static_cast<std::int64_t>(bytes.size());
  file_->open();
}

Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

const std::vector<Entry>& Reader::entries() const noexcept { return file_->entries; }
const Metadata& Reader::metadata() const noexcept { return file_->metadata; }
std::int64_t Reader::size() const noexcept { return file_->size; }

void Reader::read(std::size_t index, const MutableAnyView& out) const {
  check(index < file_->entries.size(), kRead, "index must be below the number of tensors", index);
  const Entry& entry = file_->entries[index];
  const Line& line = file_->lines[index];
  const bool encoded = line.name != entry.name;
  if (encoded) {
    try {
      decode(file_->read_line(line), out);
    } catch (const FormatError& error) {
      throw FormatError(std::string(error.what()) + " (tensor '" + entry.name + "')");
    }
    return;
  }
  const DType dtype = dtype_named(line);
  check<DTypeError>(out.dtype() == dtype, kRead, "out must have dtype " + std::string(name(dtype)),
                    name(out.dtype()));
  check(out.shape() == entry.shape, kRead, "out must have the shape of the tensor", out.shape());
  PoolBuffer copy;
  void* data = out.data();
  const auto bytes = static_cast<std::size_t>(entry.dense_bytes);
  if (!out.is_contiguous()) {
    copy = pool_allocate(std::max<std::int64_t>(entry.dense_bytes, 1));
    data = copy.get();
  }
  file_->read_at(file_->data + static_cast<std::int64_t>(line.first), data, bytes);
  if (const auto sum = file_->sums[index]) {
    check<FormatError>(crc32({static_cast<const std::uint8_t*>(data), bytes}) == *sum, kRead,
                       "a tensor must have its checksum: the file was damaged",
                       '\'' + entry.name + '\'');
  }
  if (copy) copy_elements(AnyView(copy.get(), dtype, entry.shape), out);
}

Description Reader::describe(std::size_t index) const {
  check(index < file_->entries.size(), kRead, "index must be below the number of tensors", index);
  const Entry& entry = file_->entries[index];
  const Line& line = file_->lines[index];
  if (line.name != entry.name) return pack::describe(file_->read_line(line));
  return {entry.dtype, entry.shape, entry.encoding, entry.dense_bytes, entry.packed_bytes, {}};
}

}  // namespace moptcore::inline v0::pack
