// SPDX-License-Identifier: Apache-2.0
#include "external.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <system_error>

#include <moptcore/core/pool.hpp>

namespace moptcore::inline v0::graph::onnx {
namespace {

constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW;

[[noreturn]] void fail(int error, const std::string& path) {
  throw std::system_error(error, std::generic_category(), path);
}

// For kernels and sandboxes without openat2: one name at a time, none of them a link.
int open_by_names(int folder, std::string_view location) {
  Descriptor at;
  for (;;) {
    const std::size_t slash = location.find('/');
    const std::string name(location.substr(0, slash));
    const bool last = slash == std::string_view::npos;
    const int from = at.is_open() ? at.number() : folder;
    const int flags = last ? kFlags : O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    const int next = ::openat(from, name.c_str(), flags);
    if (last || next < 0) return next;
    at = Descriptor(next);
    location.remove_prefix(slash + 1);
  }
}

int open_beneath(int folder, const std::string& location) {
  open_how how{};
  how.flags = kFlags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  // The kernel may ask to try again where folders are renamed meanwhile.
  for (int attempt = 0; attempt < 64; ++attempt) {
    const long number = ::syscall(SYS_openat2, folder, location.c_str(), &how, sizeof how);
    if (number >= 0) return static_cast<int>(number);
    if (errno == ENOSYS || errno == EPERM) return open_by_names(folder, location);
    if (errno != EINTR && errno != EAGAIN) return -1;
  }
  return -1;
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

void check_location(std::string_view location, const Path& path) {
  const std::string quoted = '\'' + std::string(location.substr(0, 200)) + '\'';
  require(!location.empty() && location.size() <= 4096, path,
          "must name a file in 1 to 4096 characters", quoted);
  require(location.find('\0') == std::string_view::npos, path, "must have no NUL", quoted);
  require(location.front() != '/', path, "must be relative to the model's folder", quoted);
  for (;;) {
    const std::size_t slash = location.find('/');
    const std::string_view name = location.substr(0, slash);
    require(!name.empty() && name != "." && name != "..", path,
            "must stay below the model's folder, without '.', '..' and empty names", quoted);
    require(name.size() <= 255, path, "must have names of at most 255 characters", quoted);
    if (slash == std::string_view::npos) return;
    location.remove_prefix(slash + 1);
  }
}

Descriptor open_below(int folder, const std::string& location, const Path& path) {
  check_location(location, path);
  Descriptor file(open_beneath(folder, location));
  if (!file.is_open()) {
    const int error = errno;
    require(error != ELOOP && error != EXDEV, path,
            "must not lead over a symbolic link or out of the model's folder", location);
    fail(error, location);
  }
  struct stat status{};
  if (::fstat(file.number(), &status) != 0) fail(errno, location);
  require(S_ISREG(status.st_mode), path, "must be a regular file", location);
  require(status.st_nlink == 1, path, "must be a file with one name (no hard link)", location);
  return file;
}

FileBytes read_file(const std::string& path) {
  // Not waiting, should it be a pipe.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.is_open()) fail(errno, path);
  struct stat status{};
  if (::fstat(file.number(), &status) != 0) fail(errno, path);
  if (S_ISDIR(status.st_mode)) fail(EISDIR, path);
  check<FormatError>(S_ISREG(status.st_mode), kLoad, "path must be that of a regular file", path);
  PoolBuffer buffer = pool_allocate(std::max<std::int64_t>(status.st_size, 1));
  auto* const data = static_cast<std::uint8_t*>(buffer.get());
  std::int64_t size = 0;
  while (size < status.st_size) {
    const ssize_t done =
        ::pread(file.number(), data + size, static_cast<std::size_t>(status.st_size - size), size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(errno, path);
    if (done == 0) break;  // it became shorter meanwhile
    size += done;
  }
  return {std::shared_ptr<void>(std::move(buffer)), {data, static_cast<std::size_t>(size)}};
}

std::int64_t ExternalFiles::open(const std::string& location, const Path& path, bool& is_new) {
  require<UnsupportedError>(enabled_, path,
                            "is read only where the folder of external data is given "
                            "(external_directory)",
                            '\'' + location.substr(0, 200) + '\'');
  is_new = !sizes_.contains(location);
  if (file_.is_open() && location == location_) return sizes_.at(location);
  if (!directory_.is_open()) {
    directory_ = Descriptor(
        ::open(folder_.empty() ? "." : folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory_.is_open()) fail(errno, folder_);
  }
  file_ = open_below(directory_.number(), location, path);
  location_ = location;
  struct stat status{};
  if (::fstat(file_.number(), &status) != 0) fail(errno, location);
  sizes_[location] = status.st_size;
  return status.st_size;
}

void ExternalFiles::read(void* out, std::int64_t offset, std::int64_t bytes, const Path& path) {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t done = ::pread(file_.number(), to, static_cast<std::size_t>(bytes), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(errno, location_);
    require(done > 0, path, "must not shrink while it is read, bytes missing", bytes);
    to += done;
    offset += done;
    bytes -= done;
  }
}

}  // namespace moptcore::inline v0::graph::onnx
