#include "cache/cache.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

size_t index_of(int64_t i) { return static_cast<size_t>(i); }

int64_t pages_for(int64_t tokens, int page) { return (tokens + page - 1) / page; }

/// Copies between entries of fields, one after another, and the host's bytes.
auto reader(std::span<std::byte> out) {
  return [out](Memory& memory, const std::byte* data, int64_t bytes) mutable {
    memory.read(out.first(index_of(bytes)), data);
    out = out.subspan(index_of(bytes));
  };
}
auto writer(std::span<const std::byte> from) {
  return [from](Memory& memory, std::byte* data, int64_t bytes) mutable {
    memory.write(data, from.first(index_of(bytes)));
    from = from.subspan(index_of(bytes));
  };
}

/// Bytes of a page, or of a slot's states, in all layers.
int64_t bytes_of(const std::vector<CacheSpec>& specs, Field::Growth growth, Field::Role role) {
  return std::accumulate(
      specs.begin(), specs.end(), int64_t{0},
      [&](int64_t sum, const CacheSpec& spec) { return sum + entry_bytes(spec, growth, role); });
}

int64_t frames_for(const std::vector<CacheSpec>& specs, const CacheSize& size,
                   const std::vector<Memory*>& memory) {
  const int64_t pages = pages_for(size.tokens, size.page);
  const int64_t bytes = bytes_of(specs, Field::Growth::paged, Field::Role::kv);
  const bool of_host = std::ranges::all_of(memory, &Memory::of_host);
  if (size.kv_memory < 0 || bytes == 0 || !of_host) return pages;
  const int64_t frames = std::min(pages, size.kv_memory / bytes);
  if (frames == 0 && pages > 0)
    fail(
        "{} bytes for keys and values hold no page of {} tokens, which takes {}: raise "
        "--kv-memory",
        size.kv_memory, size.page, bytes);
  return frames;
}

std::filesystem::path directory_of(const CacheSize& size) {
  return size.directory.empty() ? std::filesystem::temp_directory_path() : size.directory;
}

}  // namespace

Hold::Hold(Hold&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      slot_(other.slot_),
      length_(other.length_),
      kept_(other.kept_),
      pages_(std::move(other.pages_)),
      snapshots_(std::move(other.snapshots_)) {}

Hold::~Hold() {
  if (cache_ != nullptr) cache_->give_back(*this);
}

bool Hold::grow(int64_t tokens) {
  const int page = cache_->page();
  const auto has = static_cast<int64_t>(pages_.size());
  const int64_t end = length_ + tokens;
  const int64_t more = std::max<int64_t>(pages_for(end, page) - has, 0);
  // The page in which the next new token lies, if there is one already.
  const int64_t first = kept_ / page;
  const bool copies =
      end > kept_ && first < has && cache_->owners_[index_of(pages_[index_of(first)])] > 1;
  if (!cache_->make_room(more + (copies ? 1 : 0))) return false;
  if (copies) {
    const int32_t shared = pages_[index_of(first)];
    const int32_t own = cache_->take_page();
    try {
      cache_->copy_page(shared, own);
    } catch (...) {
      cache_->drop(own);
      throw;
    }
    pages_[index_of(first)] = own;
    cache_->drop(shared);
  }
  for (int64_t i = 0; i < more; ++i) pages_.push_back(cache_->take_page());
  return true;
}

void Hold::advance(int64_t tokens) {
  length_ += tokens;
  kept_ = std::max(kept_, length_);
  SALA_CHECK(length_ <= static_cast<int64_t>(pages_.size()) * cache_->page(),
             "{} tokens in {} pages", length_, pages_.size());
}

Cache::Cache(std::vector<CacheSpec> layers, const CacheSize& size, std::vector<Memory*> memory)
    : memory_(std::move(memory)),
      specs_(std::move(layers)),
      size_(size),
      pages_total_(pages_for(size.tokens, size.page)),
      frames_(specs_, pages_total_, frames_for(specs_, size, memory_), directory_of(size), memory_,
              size.kv_memory),
      snapshots_(bytes_of(specs_, Field::Growth::state, Field::Role::state), size.snapshots,
                 size.snapshots_disk, directory_of(size)),
      index_(size.page),
      owners_(index_of(pages_total_), 0),
      page_used_(index_of(pages_total_), false) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    std::vector<FieldView>& views = views_.emplace_back();
    size_t kv = 0;
    for (const Field& field : specs_[i].fields) {
      if (field.role == Field::Role::kv) {
        views.push_back(frames_.fields(static_cast<int>(i))[kv++]);
        continue;
      }
      const bool paged = field.growth == Field::Growth::paged;
      const int64_t entries = paged ? pages_total_ : size.sequences;
      storage_.push_back(memory_[i]->allocate(entries * field.bytes()));
      views.push_back({storage_.back().get(), field.bytes(), entries, field.type});
      has_states_ |= !paged;
    }
    cell_ = std::lcm(cell_, specs_[i].cell);
    recent_.emplace_back(index_of(size.sequences));
  }
  for (int64_t i = pages_total_; i-- > 0;) free_pages_.push_back(static_cast<int32_t>(i));
  for (int i = size.sequences; i-- > 0;) free_slots_.push_back(i);
}

Hold Cache::take_slot() {
  SALA_CHECK(!free_slots_.empty(), "all {} slots are taken", size_.sequences);
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return {*this, slot};
}

Hold Cache::open(std::span<const int> tokens) {
  Hold hold = take_slot();
  PrefixIndex::Match match = index_.find(tokens);
  for (const int32_t page : match.pages) share(page);
  hold.pages_ = std::move(match.pages);
  hold.snapshots_ = std::move(match.snapshots);
  hold.kept_ = match.tokens;
  resume(hold);
  return hold;
}

Hold Cache::fork(const Hold& hold) {
  Hold twin = take_slot();
  twin.length_ = hold.length_;
  twin.kept_ = hold.kept_;
  twin.pages_ = hold.pages_;
  twin.snapshots_ = hold.snapshots_;
  for (const int32_t page : twin.pages_) share(page);
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t f = 0; f < specs_[i].fields.size(); ++f) {
      if (specs_[i].fields[f].growth == Field::Growth::paged) continue;
      const FieldView& view = views_[i][f];
      memory_[i]->copy(view.data + twin.slot_ * view.stride, view.data + hold.slot_ * view.stride,
                       view.stride);
    }
  }
  return twin;
}

void Cache::roll_back(Hold& hold, int64_t tokens) {
  SALA_CHECK(tokens >= 0 && tokens <= hold.kept_, "roll back to {} of {} tokens", tokens,
             hold.kept_);
  const int64_t pages = pages_for(tokens, size_.page);
  while (static_cast<int64_t>(hold.pages_.size()) > pages) {
    drop(hold.pages_.back());
    hold.pages_.pop_back();
  }
  hold.kept_ = tokens;
  std::erase_if(hold.snapshots_, [&](const auto& s) { return s->position() > tokens; });
  if (tokens >= hold.length_) return;
  // The states stand at the last multiple of the cell; what the tail has behind it just ends
  // sooner.
  if (!has_states_ || tokens >= hold.length_ / cell_ * cell_)
    hold.length_ = tokens;
  else
    resume(hold);
}

int64_t Cache::undoable(int64_t length) const {
  return has_states_ ? cell_ - 1 - length % cell_ : std::numeric_limits<int64_t>::max();
}

void Cache::resume(Hold& hold) {
  hold.length_ = hold.kept_;
  if (!has_states_) return;
  set_states(hold.slot_, Field::Growth::tail, std::byte{0});
  std::erase_if(hold.snapshots_, [](const SnapshotRef& s) { return !s->alive(); });
  if (hold.snapshots_.empty()) {
    set_states(hold.slot_, Field::Growth::state, std::byte{0});
    hold.length_ = 0;
    return;
  }
  std::vector<std::byte> bytes(index_of(snapshots_.bytes()));
  snapshots_.read(*hold.snapshots_.back(), bytes);
  each_state(hold.slot_, Field::Growth::state, writer(bytes));
  hold.length_ = hold.snapshots_.back()->position();
}

SnapshotRef Cache::add_snapshot(Hold& hold, int64_t position,
                                const std::function<void(std::span<std::byte>)>& fill) {
  const auto at = std::ranges::lower_bound(hold.snapshots_, position, {},
                                           [](const auto& s) { return s->position(); });
  if (at != hold.snapshots_.end() && (*at)->position() == position && (*at)->alive()) return *at;
  SnapshotRef made =
      snapshots_.make(position, at == hold.snapshots_.begin() ? nullptr : *std::prev(at), fill);
  if (made != nullptr) hold.snapshots_.insert(at, made);
  return made;
}

void Cache::snapshot(Hold& hold) {
  const int64_t position = hold.length_ / cell_ * cell_;
  if (!has_states_ || position == 0) return;
  add_snapshot(hold, position, [&](std::span<std::byte> bytes) {
    each_state(hold.slot_, Field::Growth::state, reader(bytes));
  });
}

void Cache::remember(const Hold& hold, std::span<const int> tokens) {
  SALA_CHECK(static_cast<int64_t>(tokens.size()) == hold.kept_, "{} tokens of {}", tokens.size(),
             hold.kept_);
  index_.insert(
      tokens, hold.pages_, hold.snapshots_, [&](int32_t page) { share(page); },
      [&](int32_t page) { drop(page); });
}

std::optional<Hold> Cache::restore(const StoredText& text) {
  const int64_t pages = pages_for(text.tokens, size_.page);
  SALA_CHECK(pages == static_cast<int64_t>(text.records.size()), "{} records of {} pages",
             text.records.size(), pages);
  if (!make_room(pages)) return std::nullopt;
  Hold hold = take_slot();
  std::vector<std::byte> bytes;
  for (int64_t i = 0; i < pages; ++i) {
    const int32_t page = take_page();
    hold.pages_.push_back(page);
    frames_.attach(page, text.store, text.records[index_of(i)]);
    for (int layer = 0; layer < layers(); ++layer) {
      bytes.resize(index_of(page_bytes(layer, Field::Role::index)));
      if (bytes.empty()) continue;
      text.read_index(i, layer, bytes);
      each_index(page, layer, writer(bytes));
    }
  }
  hold.kept_ = text.tokens;
  for (const auto& [position, fill] : text.snapshots) add_snapshot(hold, position, fill);
  resume(hold);
  return hold;
}

void Cache::read_page(int32_t page, int layer, Field::Role role, std::span<std::byte> out) {
  if (role == Field::Role::kv) return frames_.read(page, layer, out);
  each_index(page, layer, reader(out));
}

void Cache::read_ahead(const Hold& hold) {
  if (!frames_.managed()) return;
  for (int i = 0; i < layers(); ++i)
    frames_.will_use(i, recent_[index_of(i)][index_of(hold.slot_)]);
}

bool Cache::make_room(int64_t pages) {
  const auto forget = [&](auto may_drop) {
    return index_.forget_one(may_drop, [&](int32_t page) { drop(page); });
  };
  // The end of a text that a sequence still holds frees nothing itself, but what is remembered in
  // front of it may be pages that nobody holds.
  while (free_pages() < pages)
    if (!forget([&](int32_t page) { return owners_[index_of(page)] == 1; }) &&
        !forget([](int32_t) { return true; }))
      return false;
  return true;
}

int32_t Cache::take_page() {
  const int32_t page = free_pages_.back();
  free_pages_.pop_back();
  owners_[index_of(page)] = 1;
  frames_.take(page);
  if (page_used_[index_of(page)]) fill_index(page, std::byte{0});
  page_used_[index_of(page)] = true;
  return page;
}

void Cache::copy_page(int32_t from, int32_t to) {
  frames_.copy(from, to);
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t f = 0; f < specs_[i].fields.size(); ++f) {
      if (specs_[i].fields[f].role != Field::Role::index) continue;
      const FieldView& view = views_[i][f];
      memory_[i]->copy(view.data + to * view.stride, view.data + from * view.stride, view.stride);
    }
  }
}

void Cache::drop(int32_t page) {
  if (--owners_[index_of(page)] > 0) return;
  frames_.drop(page);
  // Whoever reads what was given back reads NaN.
  if (kAssertions) fill_index(page, std::byte{0xFF});
  free_pages_.push_back(page);
}

void Cache::give_back(Hold& hold) {
  // In reverse, so that the next sequence takes the same pages in the same order.
  for (auto page = hold.pages_.rbegin(); page != hold.pages_.rend(); ++page) drop(*page);
  if (kAssertions) {
    set_states(hold.slot_, Field::Growth::state, std::byte{0xFF});
    set_states(hold.slot_, Field::Growth::tail, std::byte{0xFF});
  }
  for (auto& slots : recent_) slots[index_of(hold.slot_)].clear();
  free_slots_.push_back(hold.slot_);
}

void Cache::each_state(int slot, Field::Growth growth, const Visit& visit) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t f = 0; f < specs_[i].fields.size(); ++f) {
      const FieldView& view = views_[i][f];
      if (specs_[i].fields[f].growth == growth)
        visit(*memory_[i], view.data + slot * view.stride, view.stride);
    }
  }
}

void Cache::each_index(int32_t page, int layer, const Visit& visit) {
  const CacheSpec& spec = specs_[index_of(layer)];
  for (size_t f = 0; f < spec.fields.size(); ++f) {
    const FieldView& view = views_[index_of(layer)][f];
    if (spec.fields[f].role == Field::Role::index)
      visit(*memory_[index_of(layer)], view.data + page * view.stride, view.stride);
  }
}

void Cache::fill_index(int32_t page, std::byte value) {
  for (int layer = 0; layer < layers(); ++layer)
    each_index(page, layer, [&](Memory& memory, std::byte* data, int64_t bytes) {
      memory.fill(data, value, bytes);
    });
}

void Cache::set_states(int slot, Field::Growth growth, std::byte value) {
  each_state(slot, growth, [&](Memory& memory, std::byte* data, int64_t bytes) {
    memory.fill(data, value, bytes);
  });
}

void Cache::check_integrity(std::span<const Hold* const> holds) const {
  std::vector<int32_t> owners(index_of(pages_total_), 0);
  std::vector<bool> free(index_of(pages_total_), false);
  std::vector<int> slots(index_of(size_.sequences), 0);
  for (const int32_t page : index_.pages()) ++owners[index_of(page)];
  for (const int slot : free_slots_) ++slots[index_of(slot)];
  for (const Hold* hold : holds) {
    for (const int32_t page : hold->pages_) ++owners[index_of(page)];
    ++slots[index_of(hold->slot_)];
    SALA_CHECK(hold->length_ <= hold->kept_, "{} tokens of {}", hold->length_, hold->kept_);
    SALA_CHECK(pages_for(hold->kept_, size_.page) <= static_cast<int64_t>(hold->pages_.size()),
               "{} tokens in {} pages", hold->kept_, hold->pages_.size());
  }
  for (size_t i = 0; i < slots.size(); ++i)
    SALA_CHECK(slots[i] == 1, "slot {} has {} owners", i, slots[i]);
  for (const int32_t page : free_pages_) {
    SALA_CHECK(!free[index_of(page)], "page {} is free twice", page);
    free[index_of(page)] = true;
  }
  for (size_t i = 0; i < owners.size(); ++i) {
    SALA_CHECK(owners[i] == owners_[i], "page {} has {} owners, counted as {}", i, owners[i],
               owners_[i]);
    SALA_CHECK(free[i] == (owners[i] == 0), "page {} with {} owners is {}", i, owners[i],
               free[i] ? "free" : "not free");
  }
  frames_.check_integrity(free);
}

}  // namespace sala
