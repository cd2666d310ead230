#include "text/bpe_long_word.h"

#include <algorithm>
#include <limits>

namespace sala {

LongWord::LongWord(const Bpe& model, const std::vector<int>& ids)
    : model_(model), symbols_(ids.size()) {
  const int n = static_cast<int>(ids.size());
  for (int i = 0; i < n; ++i)
    symbols_[static_cast<size_t>(i)] = {
        .id = ids[static_cast<size_t>(i)], .previous = i - 1, .next = i + 1 < n ? i + 1 : kNone};
  if (n < model.ranks_ / 8) {
    // A table of all ranks would cost more than it saves: everything goes through the queue.
    current_ = std::numeric_limits<int>::max();
  } else {
    first_.assign(static_cast<size_t>(model.ranks_), kNone);
    last_.assign(static_cast<size_t>(model.ranks_), kNone);
  }
  for (int i = 0; i < n; ++i) look(i);
}

/// Finds the rule for a symbol and its next one, and notes it as a candidate.
void LongWord::look(int at) {
  Symbol& left = symbols_[static_cast<size_t>(at)];
  const Bpe::Rule* rule = left.next == kNone
                              ? nullptr
                              : model_.rule(left.id, symbols_[static_cast<size_t>(left.next)].id);
  if (rule == nullptr) {
    left.rank = kNone;
    return;
  }
  left.rank = rule->rank;
  left.result = rule->result;
  if (left.rank <= current_) {
    urgent_.push(pack(left.rank, at));
    return;
  }
  const int index = static_cast<int>(candidates_.size());
  candidates_.push_back({at, kNone});
  const auto rank = static_cast<size_t>(left.rank);
  (last_[rank] == kNone ? first_[rank] : candidates_[static_cast<size_t>(last_[rank])].next) =
      index;
  last_[rank] = index;
}

/// Joins a symbol with its next one, unless the pair has become another one since it was noted.
void LongWord::apply(int at, int rank) {
  Symbol& left = symbols_[static_cast<size_t>(at)];
  if (left.rank != rank) return;
  Symbol& right = symbols_[static_cast<size_t>(left.next)];
  left.id = left.result;
  left.next = right.next;
  right.rank = kNone;
  if (right.next != kNone) symbols_[static_cast<size_t>(right.next)].previous = at;
  look(at);
  if (left.previous != kNone) look(left.previous);
}

void LongWord::apply_urgent(uint64_t before) {
  while (!urgent_.empty() && urgent_.top() < before) {
    const uint64_t top = urgent_.top();
    urgent_.pop();
    apply(static_cast<int>(top & 0xFFFFFFFFU), static_cast<int>(top >> 32));
  }
}

void LongWord::merge(std::vector<int>& out) {
  std::vector<int> places;
  for (size_t rank = 0; rank < first_.size(); ++rank) {
    if (first_[rank] == kNone) continue;
    current_ = static_cast<int>(rank);
    places.clear();
    for (int i = first_[rank]; i != kNone; i = candidates_[static_cast<size_t>(i)].next)
      places.push_back(candidates_[static_cast<size_t>(i)].at);
    if (!std::ranges::is_sorted(places)) std::ranges::sort(places);
    for (const int at : places) {
      apply_urgent(pack(current_, at));
      apply(at, current_);
    }
    apply_urgent(pack(current_ + 1, 0));
  }
  apply_urgent(std::numeric_limits<uint64_t>::max());
  for (int i = 0; i != kNone; i = symbols_[static_cast<size_t>(i)].next)
    out.push_back(symbols_[static_cast<size_t>(i)].id);
}

}  // namespace sala
