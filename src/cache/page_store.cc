#include "cache/page_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"

namespace sala {

SpillFile::SpillFile(const std::filesystem::path& directory, int64_t bytes)
    : directory_(directory) {
  std::string name = (directory / "sala-cache-XXXXXX").string();
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0)
    fail("{}: cannot make a file for the cache: {}; name another directory with --cache-dir",
         directory.string(), std::strerror(errno));
  ::unlink(name.c_str());
  // A file system that cannot set room aside gives it when the bytes are written.
  if (::fallocate(fd_, 0, 0, bytes) != 0 && errno != EOPNOTSUPP) {
    const int error = errno;
    ::close(fd_);
    fail(
        "{}: cannot set {} bytes aside for the cache: {}; make room there, name another "
        "directory with --cache-dir, or lower --cache-disk",
        directory.string(), bytes, std::strerror(error));
  }
}

SpillFile::~SpillFile() { ::close(fd_); }

void SpillFile::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0)
      fail(
          "{}: cannot write {} bytes of the cache: {}; make room there or name another directory "
          "with --cache-dir",
          directory_.string(), bytes.size(), std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += done;
  }
}

void SpillFile::read(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t done = ::pread(fd_, bytes.data(), bytes.size(), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0)
      fail("{}: cannot read {} bytes of the cache back: {}", directory_.string(), bytes.size(),
           done == 0 ? "the file is shorter" : std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += done;
  }
}

void SpillFile::will_read(int64_t offset, int64_t bytes) const {
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_WILLNEED);
}

}  // namespace sala
