#include "engine/drafter.h"

#include <algorithm>
#include <bit>

namespace sala {
namespace {

constexpr int64_t kTries = 64;  // earlier places that are looked at
/// What one more row takes of the time of a step with one: a token that comes less often costs more
/// than it saves.
constexpr double kRow = 0.3;
constexpr int kMemory = 20;  // tokens that a chance remembers, about

size_t index_of(int64_t i) { return static_cast<size_t>(i); }

uint64_t hash(std::span<const int> tokens) {
  uint64_t h = 0;
  for (const int token : tokens) h = (h ^ static_cast<uint64_t>(token)) * 0x9E3779B97F4A7C15;
  return h;
}

}  // namespace

std::vector<int> Drafter::draft(std::span<const int> text, int64_t room) {
  if (most_ <= 0) return {};
  append(text.subspan(text_.size() - index_of(before_)));
  index();
  const Match match = find();
  matched_ = match.length;
  ahead_.clear();
  if (match.length < kLeast) return {};
  // Where the same tokens end near the end, the text repeats itself and so does the draft.
  const int64_t size = std::ssize(text_);
  for (int64_t at = match.end; at < match.end + most_; ++at)
    ahead_.push_back(at < size ? text_[index_of(at)] : ahead_[index_of(at - size)]);
  int64_t worth = 0;
  for (double all = 1.0; worth < std::min(most_, room); ++worth) {
    all *= chance(match.length + worth).is;
    if (all < kRow) break;
  }
  return {ahead_.begin(), ahead_.begin() + worth};
}

/// Learns what has become of the last draft.
void Drafter::append(std::span<const int> text) {
  const size_t most = std::min(ahead_.size(), text.size());
  for (size_t i = 0; i < most; ++i) {
    const bool right = text[i] == ahead_[i];
    Chance& one = chance(matched_ + static_cast<int64_t>(i));
    one.seen = std::min(one.seen + 1, kMemory);
    one.is += ((right ? 1.0 : 0.0) - one.is) / (one.seen + 2);  // as if two had been seen before
    if (!right) break;
  }
  text_.insert(text_.end(), text.begin(), text.end());
}

void Drafter::index() {
  if (previous_.empty()) {
    for (int length = kLeast; length <= kLongest; ++length) chance(length).is = 1.0 - 1.5 / length;
    heads_.assign(std::bit_ceil(text_.size() + 1024), 0);
    previous_.assign(1, 0);
  }
  const int shift = 64 - std::countr_zero(heads_.size());
  for (int64_t end = std::ssize(previous_); end <= std::ssize(text_); ++end) {
    previous_.push_back(0);
    if (end < kLeast) continue;
    int32_t& head = heads_[hash(std::span(text_).subspan(index_of(end - kLeast), kLeast)) >> shift];
    previous_.back() = head;
    head = static_cast<int32_t>(end);
  }
}

/// The longest, the last one among equals.
Drafter::Match Drafter::find() const {
  Match best;
  const int64_t size = std::ssize(text_);
  int64_t end = previous_.back();
  for (int64_t tries = 0; end > 0 && tries < kTries && best.length < kLongest; ++tries) {
    int64_t length = 0;
    while (length < std::min<int64_t>(end, kLongest) &&
           text_[index_of(end - 1 - length)] == text_[index_of(size - 1 - length)])
      ++length;
    if (length > best.length) best = {end, length};
    end = previous_[index_of(end)];
  }
  return best;
}

}  // namespace sala
