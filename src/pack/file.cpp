// SPDX-License-Identifier: Apache-2.0
#include <moptcore/pack/file.hpp>

#include <moptcore/core/copy.hpp>
#include <moptcore/core/parallel.hpp>
#include <moptcore/core/pool.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "bytes.hpp"
#include "checksum.hpp"
#include "safetensors.hpp"
#include "stream.hpp"

namespace moptcore::inline v0::pack {
namespace {

constexpr auto kSave = "pack.save";
constexpr std::string_view kKey = "moptcore.pack";
constexpr std::string_view kSuffix = "::pack";
constexpr std::string_view kBundle = "::pack::pack";  // no tensor has a name that gives this one
constexpr std::size_t kPrefix = 8;                    // the length of the header
// What a line in the header costs is little beside more bytes than these.
constexpr std::size_t kMostBundled = 4096;

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

// With its terminator, so that "a", "bc" are not "ab", "c".
std::uint32_t name_sum(const std::string& name, std::uint32_t crc) {
  return crc32({reinterpret_cast<const std::uint8_t*>(name.c_str()), name.size() + 1}, crc);
}

// The checksum of all names tells that none was lost or damaged; the others are those of the
// tensors that stay as they are. Both in the order of the names.
std::string sums_text(const std::map<std::string, std::optional<std::uint32_t>>& sums) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "1";
  const auto put = [&](std::uint32_t crc) {
    out += ' ';
    for (int shift = 28; shift >= 0; shift -= 4) out += kHex[crc >> shift & 15];
  };
  std::uint32_t names = 0;
  for (const auto& [name, sum] : sums) names = name_sum(name, names);
  put(names);
  for (const auto& [name, sum] : sums) {
    if (sum) put(*sum);
  }
  return out;
}

// A tensor on its way into a file.
struct Packed {
  const Named* source = nullptr;
  PoolBuffer copy;
  ByteSpan dense;
  std::uint32_t sum = 0;              // of the dense bytes
  std::vector<std::uint8_t> encoded;  // empty: stays as it is
  std::vector<std::uint8_t> bundled;  // empty: too large, or asked to stay as it is
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
  packed.sum = crc32(packed.dense);
  const Encoding& encoding = named.encoding;
  const bool as_is = !encoding.any_layout && !encoding.any_values &&
                     encoding.layout == Layout::dense && encoding.values == Values::raw &&
                     encoding.coder == Coder::raw;
  if (as_is) return packed;
  std::vector<std::uint8_t> encoded =
      encode(AnyView(data, tensor.dtype(), tensor.shape()), encoding);
  if (encoded.size() <= kMostBundled) packed.bundled = encoded;
  // What the longer name adds to the header is paid for by its bytes.
  if (encoded.size() + kSuffix.size() + 8 < packed.dense.size()) {
    packed.encoded = std::move(encoded);
  }
  return packed;
}

Packed pack_named(const Named& named) {
  try {
    return pack_one(named);
  } catch (const DTypeError& error) {
    throw DTypeError(std::string(error.what()) + " (tensor '" + named.name + "')");
  } catch (const Error& error) {
    throw Error(std::string(error.what()) + " (tensor '" + named.name + "')");
  }
}

// Large tensors one after the other, each on all threads; the others one to a thread. The error is
// that of the first tensor that has one, whichever was packed first.
std::vector<Packed> pack_all(std::span<const Named> tensors) {
  constexpr std::int64_t kLarge = std::int64_t{1} << 20;
  std::vector<Packed> packed(tensors.size());
  std::vector<std::exception_ptr> errors(tensors.size());
  const auto pack = [&](std::size_t i) {
    try {
      packed[i] = pack_named(tensors[i]);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  };
  std::vector<std::size_t> small;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].tensor.size() < kLarge) small.push_back(i);
    else pack(i);
  }
  std::sort(small.begin(), small.end(), [&](std::size_t a, std::size_t b) {
    return tensors[a].tensor.size() > tensors[b].tensor.size();
  });
  parallel_for(static_cast<std::int64_t>(small.size()), 1, [&](std::int64_t first, std::int64_t) {
    pack(small[static_cast<std::size_t>(first)]);
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return packed;
}

// varint bytes of the names; one stream of them, each as varint length and characters; for each
// name varint length and the bytes of `encode`; u32 CRC-32 of all before it.
Bytes bundle_of(const std::vector<const Packed*>& tensors) {
  Bytes names;
  for (const Packed* tensor : tensors) {
    const std::string& name = tensor->source->name;
    put_varint(names, name.size());
    names.insert(names.end(), name.begin(), name.end());
  }
  Bytes out;
  put_varint(out, names.size());
  put_stream(out, names, 8, Coder::best);
  for (const Packed* tensor : tensors) {
    put_varint(out, tensor->bundled.size());
    put_bytes(out, tensor->bundled);
  }
  put_checksum(out);
  return out;
}

struct Plan {
  std::string header;
  Bytes bundle;
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

enum class Manner : std::uint8_t { plain, packed, bundled };

Plan plan_of(const std::vector<Packed>& tensors, Metadata metadata, Manner manner) {
  std::vector<std::pair<Line, ByteSpan>> lines;
  std::map<std::string, std::optional<std::uint32_t>> sums;
  std::vector<const Packed*> small;
  Plan plan;
  const auto put_encoded = [&](const std::string& name, ByteSpan bytes) {
    lines.push_back({{name, "U8", {static_cast<std::int64_t>(bytes.size())}, 0, 0}, bytes});
  };
  for (const Packed& tensor : tensors) {
    const std::string& name = tensor.source->name;
    sums[name] = std::nullopt;
    if (manner == Manner::bundled && !tensor.bundled.empty()) {
      small.push_back(&tensor);
    } else if (manner != Manner::plain && !tensor.encoded.empty()) {
      put_encoded(name + std::string(kSuffix), tensor.encoded);
    } else {
      sums[name] = tensor.sum;
      const AnyView& view = tensor.source->tensor;
      lines.push_back(
          {{name, std::string(safetensors_name(view.dtype())), view.shape(), 0, 0}, tensor.dense});
    }
  }
  if (!small.empty()) {
    plan.bundle = bundle_of(small);
    put_encoded(std::string(kBundle), plan.bundle);
  }
  std::sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) {
    return std::pair(file_order(dtype_named(a.first)), a.first.name) <
           std::pair(file_order(dtype_named(b.first)), b.first.name);
  });
  std::uint64_t next = 0;
  std::vector<Line> ordered;
  for (auto& [line, bytes] : lines) {
    line.first = next;
    line.last = next += bytes.size();
    plan.parts.push_back(bytes);
    ordered.push_back(line);
  }
  if (manner != Manner::plain) metadata[std::string(kKey)] = sums_text(sums);
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
  const std::vector<Packed> packed = pack_all(tensors);
  Plan best = plan_of(packed, metadata, Manner::packed);
  // Only this library reads a bundle: it must be worth that.
  Plan bundled = plan_of(packed, metadata, Manner::bundled);
  if (bundled.bytes + bundled.bytes / 100 < best.bytes) best = std::move(bundled);
  Plan plain = plan_of(packed, metadata, Manner::plain);
  if (plain.bytes <= best.bytes) best = std::move(plain);
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
    check<FormatError>(length <= kMostHeader, kRead,
                       "a safetensors file must begin with the length of its header, at most "
                       "100000000 (is it another kind of file?)",
                       length);
    check<FormatError>(length <= static_cast<std::uint64_t>(size) - kPrefix, kRead,
                       "a safetensors file must begin with the length of its header, which ends "
                       "before the file of " +
                           std::to_string(size) + " bytes (is it cut off, or another kind?)",
                       length);
    std::string json(static_cast<std::size_t>(length), '\0');
    read_at(kPrefix, json.data(), json.size());
    data = static_cast<std::int64_t>(kPrefix + length);
    Header header = parse_header(json, static_cast<std::uint64_t>(size - data));
    metadata = std::move(header.metadata);
    list(header.lines);
  }

  void list(std::vector<Line>& found) {
    const auto ours = metadata.find(std::string(kKey));
    const bool packed = ours != metadata.end();
    std::string text;
    if (packed) {
      text = ours->second;
      metadata.erase(ours);
    }
    for (Line& line : found) {
      check<FormatError>(packed || !line.name.ends_with(kSuffix), kRead,
                         "a file with encoded tensors must have the metadata key "
                         "\"moptcore.pack\" (is it damaged?), tensor",
                         shown(line.name));
      if (packed && line.name == kBundle) add_bundle(line);
      else if (packed && line.name.ends_with(kSuffix)) add_encoded(std::move(line));
      else add_dense(std::move(line));
    }
    sort_entries();
    sums.resize(entries.size());
    if (packed) take_sums(text);
  }

  [[nodiscard]] bool is_encoded(std::size_t index) const {
    return lines[index].name != entries[index].name;
  }

  // "1", the checksum of the names and those of the tensors that stay as they are.
  void take_sums(std::string_view text) {
    constexpr std::size_t kDigits = 8;
    check<FormatError>(text.starts_with("1 "), kRead,
                       "the version of \"moptcore.pack\" must be 1, but it begins with",
                       shown(text.substr(0, 8)));
    std::vector<std::uint32_t> numbers;
    for (std::size_t at = 1; at < text.size(); at += 1 + kDigits) {
      const std::string_view digits = text.substr(at + 1, kDigits);
      const bool proper = text[at] == ' ' && digits.size() == kDigits &&
                          digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
      check<FormatError>(proper, kRead,
                         "the checksums in \"moptcore.pack\" must have 8 hexadecimal digits, byte",
                         at);
      std::uint32_t value = 0;
      std::from_chars(digits.data(), digits.data() + kDigits, value, 16);
      numbers.push_back(value);
    }
    std::size_t next = 1;
    std::uint32_t names = 0;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const std::string& name = entries[i].name;
      names = name_sum(name, names);
      if (is_encoded(i)) continue;
      check<FormatError>(next < numbers.size(), kRead,
                         "every tensor that stays as it is must have a checksum", shown(name));
      sums[i] = numbers[next++];
    }
    check<FormatError>(next == numbers.size(), kRead,
                       "every checksum must have its tensor, checksums", numbers.size());
    check<FormatError>(names == numbers[0], kRead,
                       "the names must have their checksum: one is missing or damaged, tensors",
                       entries.size());
  }

  void sort_entries() {
    std::vector<std::size_t> order(entries.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return entries[a].name < entries[b].name; });
    std::vector<Entry> sorted_entries;
    std::vector<Line> sorted_lines;
    for (const std::size_t i : order) {
      check<FormatError>(sorted_entries.empty() || sorted_entries.back().name != entries[i].name,
                         kRead, "a tensor must be there once", shown(entries[i].name));
      sorted_entries.push_back(std::move(entries[i]));
      sorted_lines.push_back(std::move(lines[i]));
    }
    entries = std::move(sorted_entries);
    lines = std::move(sorted_lines);
  }

  void add_dense(Line&& line) {
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
    lines.push_back(std::move(line));
  }

  void add_encoded(Line&& line) {
    check<FormatError>(line.dtype == "U8" && line.shape.rank() == 1, kRead,
                       "an encoded tensor must be U8 with one dimension", line.dtype);
    const Bytes encoded = read_line(line);
    add_bytes(line.name.substr(0, line.name.size() - kSuffix.size()), encoded, std::move(line));
  }

  void add_bytes(std::string name, ByteSpan encoded, Line&& line) {
    const Description description = describe_header(encoded);
    entries.push_back({std::move(name), description.dtype, description.shape, "packed",
                       description.dense_bytes, description.packed_bytes});
    lines.push_back(std::move(line));
  }

  void add_bundle(const Line& bundle) {
    check<FormatError>(bundle.dtype == "U8" && bundle.shape.rank() == 1, kRead,
                       "a bundle must be U8 with one dimension", bundle.dtype);
    const Bytes bytes = read_line(bundle);
    check<FormatError>(checksum_holds(bytes), kRead,
                       "a bundle must have its checksum: the file was damaged, bytes",
                       bytes.size());
    Cursor cursor(ByteSpan(bytes).first(bytes.size() - 4));
    // As for tensors: a reader allocates at most 1024 times the bytes of the file.
    Bytes names(cursor.varint(1024 * bytes.size(), "the bytes of the names in a bundle"));
    StreamReader(cursor, nullptr).take(names, 8, "names");
    for (Cursor left(names); left.left() > 0;) {
      const ByteSpan characters = left.take(left.varint(left.left(), "the bytes of a name"));
      std::string name(characters.begin(), characters.end());
      check<FormatError>(is_utf8(name), kRead, "a name must be UTF-8");
      const std::uint64_t length = cursor.varint(cursor.left(), "the bytes of a tensor");
      Line line{name + std::string(kSuffix), "U8", {}, bundle.first + cursor.at(), 0};
      line.last = line.first + length;
      add_bytes(std::move(name), cursor.take(length), std::move(line));
    }
    check<FormatError>(cursor.left() == 0, kRead,
                       "every tensor in a bundle must have a name, bytes", cursor.left());
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
  if (file_->is_encoded(index)) {
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
  if (file_->is_encoded(index)) return pack::describe(file_->read_line(line));
  return {entry.dtype, entry.shape, entry.encoding, entry.dense_bytes, entry.packed_bytes, {}};
}

}  // namespace moptcore::inline v0::pack
