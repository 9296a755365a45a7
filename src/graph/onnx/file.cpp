// SPDX-License-Identifier: Apache-2.0
#include "file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <map>
#include <system_error>

#include <moptcore/graph/onnx.hpp>

#include "writer.hpp"

namespace moptcore::inline v0::graph {
namespace onnx {
namespace {

constexpr std::size_t kBuffer = std::size_t{64} << 10;

[[noreturn]] void fail(const std::string& path) {
  throw std::system_error(errno, std::generic_category(), path);
}

Descriptor create(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file.is_open()) fail(path);
  return file;
}

}  // namespace

void FileWriter::write_all(const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t done = ::write(file_, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(path_);
    data += done;
    size -= static_cast<std::size_t>(done);
  }
}

void FileWriter::write(const char* data, std::size_t size) {
  if (buffer_.size() + size > kBuffer) {
    write_all(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  if (size >= kBuffer) write_all(data, size);
  else buffer_.append(data, size);
}

void FileWriter::finish() {
  write_all(buffer_.data(), buffer_.size());
  buffer_.clear();
  if (::fsync(file_) != 0) fail(path_);
}

void create_file(const std::string& path, const std::function<void(FileWriter&)>& fill) {
  const Descriptor file = create(path);
  try {
    FileWriter writer(file.number(), path);
    fill(writer);
    writer.finish();
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
}

void replace_file(const std::string& path, const std::function<void(FileWriter&)>& fill) {
  static std::atomic<unsigned> counter{0};
  const std::string temporary =
      path + ".tmp-" + std::to_string(::getpid()) + '-' + std::to_string(counter.fetch_add(1));
  try {
    create_file(temporary, fill);
  } catch (const std::system_error& error) {
    // In terms of the file that was asked for.
    throw std::system_error(error.code(), path);
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    throw std::system_error(error, std::generic_category(), path);
  }
}

namespace {

constexpr auto kSave = "graph.save";
// Of tensors in an external file, as memory maps need it.
constexpr std::int64_t kAlignment = 4096;

// Where every large tensor goes, each memory once, and the tensors in that order.
Places place_tensors(const Model& model, std::int64_t from, std::vector<const Tensor*>& order) {
  Places places;
  std::int64_t end = 0;
  for_each_tensor(model, [&](const Tensor& tensor) {
    if (tensor.type() == ElementType::string || tensor.bytes() < from || tensor.bytes() == 0)
      return;
    const std::int64_t offset = (end + kAlignment - 1) / kAlignment * kAlignment;
    if (!places.emplace(tensor.raw(), Place{offset, tensor.bytes()}).second) return;
    order.push_back(&tensor);
    end = offset + tensor.bytes();
  });
  return places;
}

void write_external(const std::string& path, const std::vector<const Tensor*>& order) {
  create_file(path, [&](FileWriter& writer) {
    const std::string zeros(kAlignment, '\0');
    std::int64_t end = 0;
    for (const Tensor* tensor : order) {
      const std::int64_t gap = (kAlignment - end % kAlignment) % kAlignment;
      writer.write(zeros.data(), static_cast<std::size_t>(gap));
      writer.write(static_cast<const char*>(tensor->raw()),
                   static_cast<std::size_t>(tensor->bytes()));
      end += gap + tensor->bytes();
    }
  });
}

// Both passes over a model; the second begins when the length is known.
class Serialized {
 public:
  Serialized(const Model& model, const Places& places, std::string_view external)
      : model_(model), places_(places), external_(external) {
    write_model(writer_, model_, places_, external_);
    check(writer_.size() <= kMaxMessage, kSave,
          "a model must have at most 2147483647 bytes without its external file "
          "(external_file), bytes",
          writer_.size());
  }
  [[nodiscard]] std::int64_t size() const noexcept { return writer_.size(); }
  void write(const Writer::Output& output) {
    writer_.begin(output);
    write_model(writer_, model_, places_, external_);
  }

 private:
  const Model& model_;
  const Places& places_;
  std::string_view external_;
  Writer writer_;
};

}  // namespace
}  // namespace onnx

std::vector<std::uint8_t> serialize(const Model& model) {
  const onnx::Places none;
  onnx::Serialized serialized(model, none, {});
  std::vector<std::uint8_t> bytes;
  bytes.reserve(static_cast<std::size_t>(serialized.size()));
  serialized.write([&](const char* data, std::size_t size) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(data);
    bytes.insert(bytes.end(), from, from + size);
  });
  return bytes;
}

void save(const Model& model, const std::string& path, const SaveOptions& options) {
  onnx::Places places;
  std::vector<const Tensor*> order;
  const std::string& name = options.external_file;
  if (!name.empty()) {
    check(options.external_from >= 0, onnx::kSave, "external_from must be >= 0",
          options.external_from);
    const bool plain = name != "." && name != ".." && name.size() <= 255 &&
                       name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
    check(plain, onnx::kSave, "external_file must be the name of a file in the model's folder",
          '\'' + name.substr(0, 255) + '\'');
    places = onnx::place_tensors(model, options.external_from, order);
  }
  onnx::Serialized serialized(model, places, name);
  if (!order.empty()) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
    onnx::write_external(folder + name, order);
  }
  onnx::replace_file(path, [&](onnx::FileWriter& file) {
    serialized.write([&](const char* data, std::size_t size) { file.write(data, size); });
  });
}

}  // namespace moptcore::inline v0::graph
