#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace sala {

/// Keys and values of pages that lie outside fast memory.
class PageStore {
 public:
  virtual ~PageStore() = default;
  /// Reads the kv fields of one layer of a record, one after another, into `out`. Throws Error that
  /// names file and page when they cannot be read or are damaged.
  virtual void read(int64_t record, int layer, std::span<std::byte> out) = 0;
  /// Says that a read will follow soon.
  virtual void will_read(int64_t /*record*/, int /*layer*/) {}
};

/// A file of its own for what does not fit in memory: it has no name and goes with its owner.
class SpillFile {
 public:
  /// Makes the file in `directory` and has the file system set `bytes` aside. Throws Error when
  /// there is no such directory or too little room.
  SpillFile(const std::filesystem::path& directory, int64_t bytes);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  /// Both throw Error with the system's reason.
  void write(int64_t offset, std::span<const std::byte> bytes);
  void read(int64_t offset, std::span<std::byte> bytes) const;
  void will_read(int64_t offset, int64_t bytes) const;

 private:
  std::filesystem::path directory_;
  int fd_ = -1;
};

}  // namespace sala
