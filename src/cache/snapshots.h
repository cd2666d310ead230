#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/page_store.h"

namespace sala {

class Snapshots;

/// The states of all layers of a sequence after its first `position` tokens, a multiple of the
/// cell. The bytes may have been given up for want of room.
class Snapshot {
 public:
  Snapshot(Snapshots& pool, int64_t position, std::shared_ptr<Snapshot> previous)
      : pool_(&pool), position_(position), previous_(std::move(previous)) {}
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  int64_t position() const { return position_; }
  /// Whether the bytes are still to be had.
  bool alive() const { return !bytes_.empty() || slot_ >= 0; }

 private:
  friend class Snapshots;
  Snapshots* pool_;
  int64_t position_;
  std::shared_ptr<Snapshot> previous_;  ///< the one before it on the same text
  std::vector<std::byte> bytes_;        ///< in memory
  int64_t slot_ = -1;                   ///< in the file
  int64_t used_ = 0;                    ///< the pool's clock when it was last wanted
};
using SnapshotRef = std::shared_ptr<Snapshot>;

/// All snapshots, under a budget of memory and one of disk. What would be cheapest to compute again
/// is given up first: the tokens between a snapshot and the one before it on its text, the less the
/// longer nobody wanted it. It goes from memory to disk, and from there it is gone. Must outlive
/// its snapshots. One thread at a time.
class Snapshots {
 public:
  /// Snapshots of `bytes` each; `memory` and `disk` are budgets in bytes, the latter for a file in
  /// `directory`. Throws Error when the file cannot be made.
  Snapshots(int64_t bytes, int64_t memory, int64_t disk, const std::filesystem::path& directory);

  /// The bytes of one.
  int64_t bytes() const { return bytes_; }
  /// Bytes of all that are alive.
  int64_t in_memory() const { return static_cast<int64_t>(resident_) * bytes_; }

  /// A snapshot that follows `previous` on its text, its bytes to be filled in by `fill`. Null when
  /// the budgets have no room for even one.
  SnapshotRef make(int64_t position, SnapshotRef previous,
                   const std::function<void(std::span<std::byte>)>& fill);
  /// Copies the bytes of one that is alive. Throws Error when the file cannot be read.
  void read(Snapshot& snapshot, std::span<std::byte> out);

 private:
  friend class Snapshot;
  double worth(const Snapshot& snapshot) const;
  Snapshot* least_worth(bool in_memory) const;
  void make_room();

  int64_t bytes_;
  size_t memory_slots_, disk_slots_;
  size_t resident_ = 0;
  std::optional<SpillFile> file_;
  std::vector<int64_t> free_slots_;
  std::vector<Snapshot*> all_;  ///< alive
  int64_t clock_ = 0;
};

}  // namespace sala
