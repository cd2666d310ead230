#include "cache/frames.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

size_t index_of(int32_t i) { return static_cast<size_t>(i); }

}  // namespace

Frames::Frames(std::vector<CacheSpec> layers, int64_t pages, int64_t frames,
               std::filesystem::path directory, const std::vector<Memory*>& memory,
               int64_t kv_memory)
    : pages_(pages),
      frames_(std::min(frames, pages)),
      of_host_(std::ranges::all_of(memory, &Memory::of_host)),
      directory_(std::move(directory)),
      origins_(static_cast<size_t>(pages)),
      touched_(static_cast<size_t>(pages), false) {
  int64_t largest = 0, used = 0;
  for (const CacheSpec& spec : layers) {
    Layer& layer = layers_.emplace_back();
    layer.memory = memory[layers_.size() - 1];
    const int64_t bytes = frames_ * entry_bytes(spec, Field::Growth::paged, Field::Role::kv);
    const bool of_host = layer.memory->of_host();
    const bool fast = of_host || kv_memory < 0 || used + bytes <= kv_memory;
    used += fast && !of_host ? bytes : 0;
    for (const Field& field : spec.fields) {
      if (field.role != Field::Role::kv) continue;
      layer.storage.push_back(fast ? layer.memory->allocate(frames_ * field.bytes())
                                   : layer.memory->allocate_on_host(frames_ * field.bytes()));
      layer.fields.push_back({layer.storage.back().get(), field.bytes(), frames_, field.type});
      layer.bytes += field.bytes();
    }
    layer.offset = bytes_;
    bytes_ += layer.bytes;
    largest = std::max(largest, layer.bytes);
    layer.spilled.assign(static_cast<size_t>(pages_), false);
    layer.frame.assign(static_cast<size_t>(pages_), -1);
    if (identity()) {
      for (int64_t p = 0; p < pages_; ++p)
        layer.frame[static_cast<size_t>(p)] = static_cast<int32_t>(p);
    } else {
      layer.frames.resize(static_cast<size_t>(frames_));
      for (int64_t f = frames_; f-- > 0;) layer.unused.push_back(static_cast<int32_t>(f));
    }
  }
  buffer_.resize(static_cast<size_t>(largest));
}

In Frames::table(int layer) const {
  if (!managed()) return {};
  return window(std::span<const int32_t>(at(layer).frame), {pages_});
}

void Frames::fill(const Layer& layer, int32_t frame, std::byte value) {
  for (const FieldView& field : layer.fields)
    layer.memory->fill(field.data + frame * field.stride, value, field.stride);
}

void Frames::save(const Layer& layer, int32_t frame, std::span<std::byte> out) const {
  for (const FieldView& field : layer.fields) {
    const auto size = static_cast<size_t>(field.stride);
    layer.memory->read(out.first(size), field.data + frame * field.stride);
    out = out.subspan(size);
  }
}

void Frames::load(const Layer& layer, int32_t frame, std::span<const std::byte> bytes) {
  for (const FieldView& field : layer.fields) {
    const auto size = static_cast<size_t>(field.stride);
    layer.memory->write(field.data + frame * field.stride, bytes.first(size));
    bytes = bytes.subspan(size);
  }
}

void Frames::use(int layer_index, std::span<const int32_t> pages, Access access) {
  Layer& layer = layers_[static_cast<size_t>(layer_index)];
  traffic_.blocks_used += static_cast<int64_t>(pages.size());
  ++layer.call;
  const auto needed = [&](int32_t page) {
    if (identity()) return;
    Frame& frame = layer.frames[index_of(layer.frame[index_of(page)])];
    frame.call = layer.call;
    frame.recent = true;
    frame.changed |= access == Access::write;
  };
  // Those that are there first, so that no other takes their frame.
  for (const int32_t page : pages)
    if (layer.frame[index_of(page)] >= 0) needed(page);
  for (const int32_t page : pages) {
    if (layer.frame[index_of(page)] >= 0) continue;
    fetch(layer, layer_index, page);
    needed(page);
  }
}

void Frames::will_use(int layer_index, std::span<const int32_t> pages) {
  const Layer& layer = at(layer_index);
  for (const int32_t page : pages) {
    if (layer.frame[index_of(page)] >= 0) continue;
    const Origin& origin = origins_[index_of(page)];
    if (layer.spilled[index_of(page)])
      spill_->will_read(place(layer, page), layer.bytes);
    else if (origin.store != nullptr)
      origin.store->will_read(origin.record, layer_index);
  }
}

int32_t Frames::free_frame(Layer& layer) {
  if (!layer.unused.empty()) {
    const int32_t frame = layer.unused.back();
    layer.unused.pop_back();
    return frame;
  }
  // Two rounds take away every second chance; a third finds nothing new.
  for (size_t tries = 0; tries <= 2 * layer.frames.size(); ++tries) {
    const size_t index = layer.hand;
    layer.hand = (layer.hand + 1) % layer.frames.size();
    Frame& frame = layer.frames[index];
    if (frame.call == layer.call || std::exchange(frame.recent, false)) continue;
    if (frame.changed) {
      if (!spill_) spill_.emplace(directory_, pages_ * bytes_);
      const auto bytes = std::span(buffer_).first(static_cast<size_t>(layer.bytes));
      save(layer, static_cast<int32_t>(index), bytes);
      spill_->write(place(layer, frame.page), bytes);
      layer.spilled[index_of(frame.page)] = true;
      ++traffic_.blocks_written;
      traffic_.bytes_written += layer.bytes;
    }
    layer.frame[index_of(frame.page)] = -1;
    return static_cast<int32_t>(index);
  }
  panic(fmt::format("more than {} pages of a layer used at once", frames_), __FILE__, __LINE__);
}

void Frames::fetch(Layer& layer, int layer_index, int32_t page) {
  const int32_t frame = identity() ? page : free_frame(layer);
  if (!identity()) layer.frames[index_of(frame)] = {};
  const Origin& origin = origins_[index_of(page)];
  if (!layer.spilled[index_of(page)] && origin.store == nullptr) {
    fill(layer, frame, std::byte{0});
  } else {
    const auto bytes = std::span(buffer_).first(static_cast<size_t>(layer.bytes));
    try {
      if (layer.spilled[index_of(page)])
        spill_->read(place(layer, page), bytes);
      else
        origin.store->read(origin.record, layer_index, bytes);
    } catch (...) {
      if (!identity()) layer.unused.push_back(frame);
      throw;
    }
    load(layer, frame, bytes);
    ++traffic_.blocks_read;
    traffic_.bytes_read += layer.bytes;
  }
  layer.frame[index_of(page)] = frame;
  if (identity())
    --unread_;
  else
    layer.frames[index_of(frame)].page = page;
}

void Frames::take(int32_t page) {
  if (!identity()) return;  // its frame is made of zeros when it gets one
  if (touched_[index_of(page)])
    for (Layer& layer : layers_) fill(layer, page, std::byte{0});
  touched_[index_of(page)] = true;
}

void Frames::drop(int32_t page) {
  origins_[index_of(page)] = {};
  for (Layer& layer : layers_) {
    int32_t& frame = layer.frame[index_of(page)];
    layer.spilled[index_of(page)] = false;
    if (identity()) {
      if (frame < 0) --unread_;
      frame = page;
    } else if (frame >= 0) {
      layer.frames[index_of(frame)] = {};
      layer.unused.push_back(frame);
    }
    // Whoever reads what was given back reads NaN.
    if (kAssertions && frame >= 0) fill(layer, frame, std::byte{0xFF});
    if (!identity()) frame = -1;
  }
}

void Frames::copy(int32_t from, int32_t to) {
  for (int i = 0; i < static_cast<int>(layers_.size()); ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    if (layer.bytes == 0) continue;
    if (managed()) {
      const int32_t both[] = {from, to};
      use(i, both, Access::read);
      if (!identity()) layer.frames[index_of(layer.frame[index_of(to)])].changed = true;
    }
    for (const FieldView& field : layer.fields)
      layer.memory->copy(field.data + layer.frame[index_of(to)] * field.stride,
                         field.data + layer.frame[index_of(from)] * field.stride, field.stride);
  }
}

void Frames::attach(int32_t page, std::shared_ptr<PageStore> store, int64_t record) {
  origins_[index_of(page)] = {std::move(store), record};
  if (!identity()) return;
  if (unread_ == 0)  // a step reads few blocks of a long text
    for (const Layer& layer : layers_)
      for (const FieldView& field : layer.fields)
        if (layer.memory->of_host()) expect_sparse_use(field.data, field.entries * field.stride);
  for (Layer& layer : layers_) {
    if (layer.bytes == 0) continue;
    layer.frame[index_of(page)] = -1;
    ++unread_;
  }
  if (of_host_) return;
  // Ops that run by themselves cannot ask for what they lack.
  for (size_t i = 0; i < layers_.size(); ++i)
    if (layers_[i].bytes > 0) fetch(layers_[i], static_cast<int>(i), page);
}

void Frames::read(int32_t page, int layer_index, std::span<std::byte> out) {
  Layer& layer = layers_[static_cast<size_t>(layer_index)];
  SALA_CHECK(static_cast<int64_t>(out.size()) == layer.bytes, "{} bytes for a block of {}",
             out.size(), layer.bytes);
  const Origin& origin = origins_[index_of(page)];
  if (const int32_t frame = layer.frame[index_of(page)]; frame >= 0)
    save(layer, frame, out);
  else if (layer.spilled[index_of(page)])
    spill_->read(place(layer, page), out);
  else if (origin.store != nullptr)
    origin.store->read(origin.record, layer_index, out);
  else
    std::ranges::fill(out, std::byte{0});
}

void Frames::check_integrity(const std::vector<bool>& free) const {
  int64_t unread = 0;
  for (const Layer& layer : layers_) {
    int64_t in_use = 0;
    for (int32_t page = 0; page < pages_; ++page) {
      const int32_t frame = layer.frame[index_of(page)];
      if (identity()) {
        SALA_CHECK(frame == page || frame == -1, "page {} in frame {}", page, frame);
        unread += frame < 0 ? 1 : 0;
      } else if (frame >= 0) {
        ++in_use;
        SALA_CHECK(layer.frames[index_of(frame)].page == page, "frame {} holds page {}, not {}",
                   frame, layer.frames[index_of(frame)].page, page);
      }
      if (free[index_of(page)])
        SALA_CHECK(!layer.spilled[index_of(page)] && origins_[index_of(page)].store == nullptr &&
                       (identity() || frame < 0),
                   "free page {} still has bytes", page);
    }
    if (!identity())
      SALA_CHECK(in_use + static_cast<int64_t>(layer.unused.size()) == frames_,
                 "{} frames in use and {} unused of {}", in_use, layer.unused.size(), frames_);
  }
  SALA_CHECK(unread == unread_, "{} unread blocks counted as {}", unread, unread_);
}

}  // namespace sala
