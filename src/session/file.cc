#include "session/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kOwnerOnly = 0600;

[[noreturn]] void fail_to(const char* what, const fs::path& path) {
  const int error = errno;
  const char* remedy = error == ENOSPC || error == EDQUOT ? "; make room on the disk and try again"
                       : error == EFBIG ? "; the system limits the size of files (ulimit -f)"
                                        : "";
  fail("{}: cannot {}: {}{}", path.string(), what, std::strerror(error), remedy);
}

}  // namespace

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File File::open_with(const fs::path& path, int flags) {
  // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
  File file(path, ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, kOwnerOnly));
  if (file.fd_ < 0) fail_to((flags & O_CREAT) != 0 ? "create" : "open", path);
  struct stat info{};
  if (::fstat(file.fd_, &info) != 0 || !S_ISREG(info.st_mode))
    fail("{}: not a regular file; this is not a session's directory", path.string());
  return file;
}

File File::open(const fs::path& path) { return open_with(path, O_RDONLY); }
File File::open_to_write(const fs::path& path) { return open_with(path, O_RDWR); }
File File::create(const fs::path& path) { return open_with(path, O_RDWR | O_CREAT | O_EXCL); }

File File::try_lock(const fs::path& path) {
  for (;;) {
    File file = open_with(path, O_RDWR | O_CREAT);
    if (::flock(file.fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return {};
      if (errno != EINTR) fail_to("lock", path);
      continue;
    }
    // Whoever held the lock before may have removed the file: then it locks nothing.
    struct stat ours{}, named{};
    if (::fstat(file.fd_, &ours) == 0 && ::stat(path.c_str(), &named) == 0 &&
        ours.st_ino == named.st_ino && ours.st_dev == named.st_dev)
      return file;
  }
}

int64_t File::size() const {
  struct stat info{};
  if (::fstat(fd_, &info) != 0) fail_to("tell the size", path_);
  return info.st_size;
}

void File::read(int64_t offset, std::span<std::byte> out) const {
  for (size_t done = 0; done < out.size();) {
    const ssize_t got = ::pread(fd_, out.data() + done, out.size() - done,
                                static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_to("read", path_);
    if (got == 0)
      fail("{}: ends at byte {}, but {} bytes from byte {} on are needed; the file is truncated",
           path_.string(), offset + static_cast<int64_t>(done), out.size(), offset);
    done += static_cast<size_t>(got);
  }
}

void File::will_read(int64_t offset, int64_t bytes) const {
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_WILLNEED);
}

void File::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_to("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(put));
    offset += put;
  }
}

void File::truncate(int64_t size) {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) fail_to("truncate", path_);
}

void File::sync() {
  if (::fsync(fd_) != 0) fail_to("write to the disk", path_);
}

void replace_file(const fs::path& path, std::span<const std::byte> bytes) {
  fs::path fresh = path;
  fresh += ".new";
  remove_file(fresh);
  File file = File::create(fresh);
  file.write(0, bytes);
  file.sync();
  if (::rename(fresh.c_str(), path.c_str()) != 0) fail_to("replace", path);
  sync_directory(path.parent_path());
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_to("open", path);
  const int done = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  errno = error;
  if (done != 0) fail_to("write to the disk", path);
}

void remove_file(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail_to("remove", path);
}

void link_or_copy(const fs::path& from, const fs::path& to, int64_t bytes) {
  if (::link(from.c_str(), to.c_str()) == 0) return;
  if (errno != EXDEV && errno != EPERM && errno != EMLINK && errno != EOPNOTSUPP)
    fail_to(fmt::format("link to {}", to.string()).c_str(), from);
  const File source = File::open(from);
  File copy = File::create(to);
  std::vector<std::byte> buffer(size_t{1} << 20);
  for (int64_t done = 0; done < bytes;) {
    const auto part =
        std::span(buffer).first(std::min(buffer.size(), static_cast<size_t>(bytes - done)));
    source.read(done, part);
    copy.write(done, part);
    done += static_cast<int64_t>(part.size());
  }
  copy.sync();
}

}  // namespace sala
