#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cache/frames.h"
#include "cache/prefix_index.h"
#include "cache/snapshots.h"
#include "cache/spec.h"
#include "tensor/tensor.h"

namespace sala {

class Cache;

/// The memory of one layer as a mixer sees it: its fields in the order of its spec. Entries of kv
/// fields are frames (cache/frames.h), of index fields pages, of states and tails slots.
class LayerMemory {
 public:
  LayerMemory(std::span<const FieldView> fields, Frames& frames,
              std::vector<std::vector<int32_t>>& recent, int layer)
      : fields_(fields), frames_(&frames), recent_(&recent), layer_(layer) {}

  const FieldView& operator[](size_t i) const { return fields_[i]; }
  /// [pages] i32: the frame of each page that use() has brought; empty where every page p is in
  /// frame p.
  In frames() const { return frames_->table(layer_); }
  /// Whether pages must be brought with use() before an op touches them, and how many at most.
  bool managed() const { return frames_->managed(); }
  int64_t capacity() const { return frames_->frames(); }
  void use(std::span<const int32_t> pages, Frames::Access access) const {
    frames_->use(layer_, pages, access);
  }
  /// The pages that the sequence in `slot` read last: where its next step will begin to look.
  std::vector<int32_t>& recent(int32_t slot) const { return (*recent_)[static_cast<size_t>(slot)]; }

 private:
  std::span<const FieldView> fields_;
  Frames* frames_;
  std::vector<std::vector<int32_t>>* recent_;
  int layer_;
};

/// One sequence's share of a cache: its pages, its slot in the state fields, the snapshots of its
/// text. Gives everything back when destroyed; must not outlive the cache.
class Hold {
 public:
  Hold(Hold&& other) noexcept;
  Hold& operator=(Hold&&) = delete;
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold();

  int slot() const { return slot_; }
  std::span<const int32_t> pages() const { return pages_; }
  /// Tokens whose memory is complete: the next step goes on from here.
  int64_t length() const { return length_; }
  /// Tokens that the pages hold. Those behind length() are read again to bring the states up to
  /// them, which writes to no page.
  int64_t kept() const { return kept_; }
  /// Snapshots of this sequence's own text, at ascending positions; some may be gone.
  std::span<const SnapshotRef> snapshots() const { return snapshots_; }

  /// Makes room for `tokens` more tokens behind length(), and copies the page that they begin in if
  /// others share it. False, with this sequence unchanged, when the cache has too few pages. Throws
  /// Error, unchanged too, when the page to copy cannot be read or nothing can make way for it.
  [[nodiscard]] bool grow(int64_t tokens);
  /// Counts `tokens` more tokens as remembered; grow() has made the room.
  void advance(int64_t tokens);

 private:
  friend class Cache;
  Hold(Cache& cache, int slot) : cache_(&cache), slot_(slot) {}
  Cache* cache_;
  int slot_;
  int64_t length_ = 0, kept_ = 0;
  std::vector<int32_t> pages_;
  std::vector<SnapshotRef> snapshots_;
};

/// How large a cache is. All of it is reserved when the cache is made, and costs memory when it is
/// first used.
struct CacheSize {
  int page = 64;               ///< tokens
  int64_t tokens = 0;          ///< room for so many, in whole pages
  int sequences = 1;           ///< at a time
  int64_t kv_memory = -1;      ///< bytes of keys and values in memory, the rest in a file, or with
                               ///< the host where the memory is a device's; -1: all
  int64_t snapshots = 0;       ///< bytes of snapshots in memory
  int64_t snapshots_disk = 0;  ///< bytes of snapshots in a file
  std::filesystem::path directory{};  ///< where the files go; empty: the system's temporary one
};

/// A text whose memory is kept elsewhere (a saved session).
struct StoredText {
  int64_t tokens = 0;
  std::shared_ptr<PageStore> store;  ///< of keys and values
  std::vector<int64_t> records;      ///< of each page in the store
  /// Fills the index fields of one layer of a page, one after another.
  std::function<void(int64_t page, int layer, std::span<std::byte> out)> read_index;
  /// Positions, ascending, and what fills the bytes there.
  std::vector<std::pair<int64_t, std::function<void(std::span<std::byte>)>>> snapshots;
};

/// The memory of all sequences of a model: a pool of pages, shared where texts begin alike and
/// copied before they are written; a slot of states for each sequence; snapshots of states; and an
/// index of the texts it remembers. Not thread-safe: the engine's loop owns it.
class Cache {
 public:
  /// All but snapshots lies in `memory`, one for each layer, which must outlive the cache. Throws
  /// Error when it cannot be had, or when kv_memory is too small to hold a single page.
  Cache(std::vector<CacheSpec> layers, const CacheSize& size, std::vector<Memory*> memory);

  int page() const { return size_.page; }
  /// States are complete at multiples of this.
  int cell() const { return cell_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_pages_.size()); }
  int free_slots() const { return static_cast<int>(free_slots_.size()); }
  LayerMemory layer(int i) {
    const auto at = static_cast<size_t>(i);
    return {views_[at], frames_, recent_[at], i};
  }
  int layers() const { return static_cast<int>(specs_.size()); }
  /// Whether pages must be brought before an op touches them (LayerMemory::use).
  bool managed() const { return frames_.managed(); }
  const KvTraffic& traffic() const { return frames_.traffic(); }
  int64_t snapshot_bytes() const { return snapshots_.bytes(); }

  /// A new sequence that begins like `tokens`: it has what is remembered of them. The cache must
  /// have a free slot.
  Hold open(std::span<const int> tokens = {});
  /// A sequence that goes on from where `hold` is; pages are shared. Needs a free slot.
  Hold fork(const Hold& hold);
  /// Cuts a sequence's text to its first `tokens` tokens, at most kept(). length() becomes the
  /// last position at or before that whose states can be had.
  void roll_back(Hold& hold, int64_t tokens);
  /// Tokens behind the first `length` that a step may read of which roll_back() has none read again
  /// to take them back: as many as fill no cell.
  int64_t undoable(int64_t length) const;
  /// Takes a snapshot at the last multiple of the cell, unless there is one or the budget has no
  /// room.
  void snapshot(Hold& hold);
  /// Remembers a sequence's text for later ones: `tokens` are its first kept() tokens.
  void remember(const Hold& hold, std::span<const int> tokens);

  /// The kv or index fields of one layer of a page, one after another.
  int64_t page_bytes(int layer, Field::Role role) const {
    return entry_bytes(specs_[static_cast<size_t>(layer)], Field::Growth::paged, role);
  }
  void read_page(int32_t page, int layer, Field::Role role, std::span<std::byte> out);
  /// The bytes of a snapshot that is alive.
  void read_snapshot(Snapshot& snapshot, std::span<std::byte> out) {
    snapshots_.read(snapshot, out);
  }
  /// A sequence that has a stored text: its pages come from the store when they are used. Nothing
  /// when the cache has too few pages. Needs a free slot.
  std::optional<Hold> restore(const StoredText& text);

  /// A step of this sequence comes next: asks for the pages that its last one read, where they are
  /// not in memory.
  void read_ahead(const Hold& hold);

  /// Panics when a page, slot or frame is lost, doubled, or held after it was freed. For tests,
  /// after every step.
  void check_integrity(std::span<const Hold* const> holds) const;

 private:
  friend class Hold;
  Hold take_slot();
  bool make_room(int64_t pages);
  int32_t take_page();
  void share(int32_t page) { ++owners_[static_cast<size_t>(page)]; }
  void drop(int32_t page);
  void give_back(Hold& hold);
  void resume(Hold& hold);
  /// Visits entries of fields: whose memory they are in, where they begin, and their bytes.
  using Visit = std::function<void(Memory& memory, std::byte* data, int64_t bytes)>;
  void each_state(int slot, Field::Growth growth, const Visit& visit);
  void set_states(int slot, Field::Growth growth, std::byte value);
  void each_index(int32_t page, int layer, const Visit& visit);
  void fill_index(int32_t page, std::byte value);
  void copy_page(int32_t from, int32_t to);
  SnapshotRef add_snapshot(Hold& hold, int64_t position,
                           const std::function<void(std::span<std::byte>)>& fill);

  std::vector<Memory*> memory_;  ///< of each layer
  std::vector<CacheSpec> specs_;
  CacheSize size_;
  int64_t pages_total_;
  int cell_ = 1;
  bool has_states_ = false;
  Frames frames_;
  Snapshots snapshots_;
  PrefixIndex index_;
  std::vector<Storage> storage_;
  std::vector<std::vector<FieldView>> views_;
  std::vector<int32_t> free_pages_;  ///< a stack; the lowest number on top at first
  std::vector<int> free_slots_;
  std::vector<std::vector<std::vector<int32_t>>> recent_;  ///< [layer][slot] pages read last
  std::vector<int32_t> owners_;  ///< of each page: sequences that hold it, and the index
  std::vector<bool> page_used_;  ///< its index fields are not as they came from the system
};

}  // namespace sala
