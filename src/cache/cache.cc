#include "cache/cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace sala {

MemoryUse memory_of(const std::vector<CacheSpec>& layers, int page, int64_t tokens) {
  MemoryUse use;
  const int64_t pages = (tokens + page - 1) / page;
  for (const CacheSpec& spec : layers) {
    for (const Field& field : spec) {
      const int64_t bytes = field.bytes() * (field.growth == Field::Growth::paged ? pages : 1);
      (field.role == Field::Role::kv      ? use.kv
       : field.role == Field::Role::index ? use.index
                                          : use.state) += bytes;
    }
  }
  return use;
}

Hold::Hold(Hold&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      slot_(other.slot_),
      length_(other.length_),
      pages_(std::move(other.pages_)) {}

Hold::~Hold() {
  if (cache_ != nullptr) cache_->give_back(*this);
}

bool Hold::grow(int64_t tokens) {
  const int64_t needed = (length_ + tokens + cache_->page() - 1) / cache_->page();
  if (needed - static_cast<int64_t>(pages_.size()) > cache_->free_pages()) return false;
  while (static_cast<int64_t>(pages_.size()) < needed) pages_.push_back(cache_->take_page());
  return true;
}

void Hold::advance(int64_t tokens) {
  length_ += tokens;
  SALA_CHECK(length_ <= static_cast<int64_t>(pages_.size()) * cache_->page(),
             "{} tokens in {} pages", length_, pages_.size());
}

Cache::Cache(std::vector<CacheSpec> layers, int page, int64_t tokens, int sequences)
    : specs_(std::move(layers)),
      page_(page),
      pages_total_((tokens + page - 1) / page),
      slots_total_(sequences) {
  for (const CacheSpec& spec : specs_) {
    std::vector<FieldView>& views = views_.emplace_back();
    for (const Field& field : spec) {
      const int64_t entries = field.growth == Field::Growth::paged ? pages_total_ : slots_total_;
      storage_.push_back(allocate(entries * field.bytes()));
      views.push_back({storage_.back().get(), field.bytes(), entries, field.type});
    }
  }
  for (int64_t i = pages_total_; i-- > 0;) free_pages_.push_back(static_cast<int32_t>(i));
  for (int i = slots_total_; i-- > 0;) free_slots_.push_back(i);
  page_used_.assign(static_cast<size_t>(pages_total_), false);
  slot_used_.assign(static_cast<size_t>(slots_total_), false);
}

Hold Cache::open() {
  SALA_CHECK(!free_slots_.empty(), "all {} slots are taken", slots_total_);
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  if (slot_used_[static_cast<size_t>(slot)]) zero(Field::Growth::state, slot);
  slot_used_[static_cast<size_t>(slot)] = true;
  return {*this, slot};
}

int32_t Cache::take_page() {
  const int32_t page = free_pages_.back();
  free_pages_.pop_back();
  if (page_used_[static_cast<size_t>(page)]) zero(Field::Growth::paged, page);
  page_used_[static_cast<size_t>(page)] = true;
  return page;
}

void Cache::give_back(Hold& hold) {
  // In reverse, so that the next sequence takes the same pages in the same order.
  free_pages_.insert(free_pages_.end(), hold.pages_.rbegin(), hold.pages_.rend());
  free_slots_.push_back(hold.slot_);
}

void Cache::zero(Field::Growth growth, int64_t entry) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t f = 0; f < specs_[i].size(); ++f) {
      const FieldView& view = views_[i][f];
      if (specs_[i][f].growth == growth)
        std::memset(view.data + entry * view.stride, 0, static_cast<size_t>(view.stride));
    }
  }
}

void Cache::check_integrity(std::span<const Hold* const> holds) const {
  std::vector<int> owners(static_cast<size_t>(pages_total_), 0);
  std::vector<int> slot_owners(static_cast<size_t>(slots_total_), 0);
  for (int32_t page : free_pages_) ++owners[static_cast<size_t>(page)];
  for (int slot : free_slots_) ++slot_owners[static_cast<size_t>(slot)];
  for (const Hold* hold : holds) {
    for (int32_t page : hold->pages_) ++owners[static_cast<size_t>(page)];
    ++slot_owners[static_cast<size_t>(hold->slot_)];
  }
  for (size_t i = 0; i < owners.size(); ++i)
    SALA_CHECK(owners[i] == 1, "page {} has {} owners", i, owners[i]);
  for (size_t i = 0; i < slot_owners.size(); ++i)
    SALA_CHECK(slot_owners[i] == 1, "slot {} has {} owners", i, slot_owners[i]);
}

}  // namespace sala
