#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/spec.h"
#include "tensor/tensor.h"

namespace sala {

class Cache;

/// The memory of one layer as a mixer sees it: field i of its spec begins at data; entry e (a pool
/// page or a slot) lies at data + e * stride.
struct FieldView {
  std::byte* data = nullptr;
  int64_t stride = 0;  ///< bytes
  int64_t entries = 0;
  DType type = DType::f32;
};
using LayerMemory = std::span<const FieldView>;

/// One sequence's share of a cache: its pages, its slot in the state fields, and how many tokens
/// they hold. Gives everything back when destroyed; must not outlive the cache.
class Hold {
 public:
  Hold(Hold&& other) noexcept;
  Hold& operator=(Hold&&) = delete;
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold();

  int slot() const { return slot_; }
  std::span<const int32_t> pages() const { return pages_; }
  /// Tokens whose memory is complete.
  int64_t length() const { return length_; }
  /// Makes room for `tokens` more tokens. False, with nothing changed, when the cache has too few
  /// pages.
  [[nodiscard]] bool grow(int64_t tokens);
  /// Counts `tokens` more tokens as remembered; grow() has made the room.
  void advance(int64_t tokens);

 private:
  friend class Cache;
  Hold(Cache& cache, int slot) : cache_(&cache), slot_(slot) {}
  Cache* cache_;
  int slot_;
  int64_t length_ = 0;
  std::vector<int32_t> pages_;
};

/// The memory of all sequences of a model: a pool of pages of `page` tokens and a pool of slots.
/// Address space is reserved when it is made; a page costs memory when it is first used. Not
/// thread-safe: the engine's loop owns it.
class Cache {
 public:
  /// Room for `tokens` tokens in whole pages and for `sequences` sequences. Throws Error when the
  /// address space cannot be had.
  Cache(std::vector<CacheSpec> layers, int page, int64_t tokens, int sequences);

  int page() const { return page_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_pages_.size()); }
  LayerMemory layer(int i) const { return views_[static_cast<size_t>(i)]; }

  /// A new, empty sequence with its state zeroed. The cache must have a free slot.
  Hold open();
  int free_slots() const { return static_cast<int>(free_slots_.size()); }

  /// Panics when a page or slot is lost, doubled or held after it was freed. For tests, after every
  /// step.
  void check_integrity(std::span<const Hold* const> holds) const;

 private:
  friend class Hold;
  int32_t take_page();
  void give_back(Hold& hold);
  void zero(Field::Growth growth, int64_t entry);

  std::vector<CacheSpec> specs_;
  int page_;
  int64_t pages_total_;
  int slots_total_;
  std::vector<Storage> storage_;
  std::vector<std::vector<FieldView>> views_;
  std::vector<int32_t> free_pages_;  ///< a stack; the lowest number on top at first
  std::vector<int> free_slots_;
  std::vector<bool> page_used_,
      slot_used_;  ///< touched since the memory was had from the system, so not zero
};

}  // namespace sala
