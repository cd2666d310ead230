#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace sala {

/// An open file. Errors name the path; a full disk is one of them. Reads may come from any thread.
class File {
 public:
  /// Opens a file to read.
  static File open(const std::filesystem::path& path);
  /// Opens a file to read and write.
  static File open_to_write(const std::filesystem::path& path);
  /// Makes a file that is not there yet.
  static File create(const std::filesystem::path& path);
  /// Takes the lock of a file, made when missing, until the File is destroyed. The result is closed
  /// when another process (or another File) has the lock.
  static File try_lock(const std::filesystem::path& path);

  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  bool is_open() const { return fd_ >= 0; }
  const std::filesystem::path& path() const { return path_; }
  int64_t size() const;
  /// Fills `out` from byte `offset` on; throws Error when the file ends before.
  void read(int64_t offset, std::span<std::byte> out) const;
  /// Says that a read will follow soon.
  void will_read(int64_t offset, int64_t bytes) const;
  void write(int64_t offset, std::span<const std::byte> bytes);
  /// Cuts the file down to `size` bytes.
  void truncate(int64_t size);
  /// Waits until all that was written would outlast a power cut.
  void sync();

 private:
  File(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  static File open_with(const std::filesystem::path& path, int flags);

  std::filesystem::path path_;
  int fd_ = -1;
};

/// Makes `bytes` the contents of `path` at one stroke: whoever opens it finds the old contents or
/// the new ones, also after a power cut. `path` + ".new" is used on the way.
void replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes);

/// Waits until the names in a directory would outlast a power cut.
void sync_directory(const std::filesystem::path& path);

/// Removes a file, if it is there.
void remove_file(const std::filesystem::path& path);

/// Gives a file a second name (a hard link); copies its first `bytes` bytes where the file system
/// has no links.
void link_or_copy(const std::filesystem::path& from, const std::filesystem::path& to,
                  int64_t bytes);

}  // namespace sala
