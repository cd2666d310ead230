#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace sala {

/// A whole file, mapped read-only. Shared by everything that points into it. Thread-safe after
/// opening.
class MappedFile {
 public:
  /// Maps `path`. Throws Error when it cannot be opened or is not a regular file. An empty file
  /// gives empty bytes.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  /// Tells the kernel that `part` will not be read soon, so that its pages no longer count as this
  /// process's memory.
  void release(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sala
