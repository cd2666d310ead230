#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/page_store.h"
#include "cache/spec.h"

namespace sala {

/// One field of a layer: entry e begins at data + e * stride.
struct FieldView {
  std::byte* data = nullptr;
  int64_t stride = 0;  ///< bytes
  int64_t entries = 0;
  DType type = DType::f32;
};

/// Blocks (one page of one layer) that moved between fast memory and elsewhere.
struct KvTraffic {
  int64_t blocks_used = 0;  ///< that steps asked for
  int64_t blocks_read = 0;
  int64_t bytes_read = 0;
  int64_t blocks_written = 0;
  int64_t bytes_written = 0;
};

/// The keys and values of all pages. Each layer has frames in fast memory: as many as there are
/// pages, and page p is frame p; or fewer, and then a table says in which frame a page lies, pages
/// that have no frame lie in a file, and a page is brought back when it is used. A page's first
/// bytes may also come from a PageStore. One thread at a time.
class Frames {
 public:
  /// What a use does with the bytes.
  enum class Access : uint8_t { read, write };

  /// `frames` of each layer for `pages` pages; the file goes to `directory` when it is first
  /// needed. Each layer lies in a memory of its own. Where one of these is not the host's, there is
  /// a frame for every page, and of its layers those beyond the first `kv_memory` bytes (-1: none)
  /// have them in the host's memory, where ops reach them. Throws Error when the memory cannot be
  /// had.
  Frames(std::vector<CacheSpec> layers, int64_t pages, int64_t frames,
         std::filesystem::path directory, const std::vector<Memory*>& memory,
         int64_t kv_memory = -1);

  int64_t frames() const { return frames_; }
  /// The kv fields of a layer, whose entries are frames, in the order of its spec.
  std::span<const FieldView> fields(int layer) const { return at(layer).fields; }
  /// [pages] i32, the frame of each page or -1; empty where every page p is in frame p.
  In table(int layer) const;
  /// Whether a step must call use() before it touches pages.
  bool managed() const { return frames_ < pages_ || unread_ > 0; }

  /// Brings pages of a layer into frames, all of them at once; at most frames() different ones.
  /// Throws Error when a page cannot be read or written.
  void use(int layer, std::span<const int32_t> pages, Access access);
  /// Says which pages a later use() of the layer will name.
  void will_use(int layer, std::span<const int32_t> pages);

  /// A page is handed out: it reads as zeros.
  void take(int32_t page);
  /// A page is given back: its bytes are forgotten.
  void drop(int32_t page);
  /// Page `to`, just taken, becomes a copy of page `from`.
  void copy(int32_t from, int32_t to);
  /// Page `page`, just taken, has the bytes of a record of `store`.
  void attach(int32_t page, std::shared_ptr<PageStore> store, int64_t record);
  /// Copies the kv fields of one layer of a page to `out`, wherever they lie.
  void read(int32_t page, int layer, std::span<std::byte> out);

  const KvTraffic& traffic() const { return traffic_; }
  /// Panics when the tables contradict each other. `free` says which pages are not handed out.
  void check_integrity(const std::vector<bool>& free) const;

 private:
  /// What a frame holds.
  struct Frame {
    int32_t page = -1;
    bool changed = false;  ///< since it was last written to the file
    bool recent = false;   ///< used since the hand last passed
    int64_t call = 0;      ///< the last use() that needed it
  };
  struct Layer {
    Memory* memory = nullptr;
    std::vector<Storage> storage;
    std::vector<FieldView> fields;
    int64_t bytes = 0;            ///< of a page
    int64_t offset = 0;           ///< of this layer's bytes in a page's part of the file
    std::vector<int32_t> frame;   ///< of each page, -1: none
    std::vector<bool> spilled;    ///< of each page: the file has its bytes
    std::vector<Frame> frames;    ///< empty where page p is frame p
    std::vector<int32_t> unused;  ///< frames
    size_t hand = 0;              ///< of the clock that finds a frame to give up
    int64_t call = 0;
  };
  struct Origin {
    std::shared_ptr<PageStore> store;
    int64_t record = 0;
  };

  const Layer& at(int layer) const { return layers_[static_cast<size_t>(layer)]; }
  bool identity() const { return frames_ == pages_; }
  int32_t free_frame(Layer& layer);
  void fetch(Layer& layer, int index, int32_t page);
  void fill(const Layer& layer, int32_t frame, std::byte value);
  /// The kv fields of a frame, one after another, to and from the host's bytes.
  void save(const Layer& layer, int32_t frame, std::span<std::byte> out) const;
  void load(const Layer& layer, int32_t frame, std::span<const std::byte> bytes);
  int64_t place(const Layer& layer, int32_t page) const { return page * bytes_ + layer.offset; }

  int64_t pages_, frames_;
  bool of_host_;       ///< all layers' memories
  int64_t bytes_ = 0;  ///< of a page in all layers
  std::filesystem::path directory_;
  std::vector<Layer> layers_;
  std::vector<Origin> origins_;  ///< of each page
  std::vector<bool> touched_;    ///< of each page = frame: its memory is not as it came
  int64_t unread_ = 0;           ///< where page p is frame p: blocks that are elsewhere
  std::optional<SpillFile> spill_;
  std::vector<std::byte> buffer_;  ///< one block
  KvTraffic traffic_;
};

}  // namespace sala
