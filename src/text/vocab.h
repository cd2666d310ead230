#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

namespace sala {

/// Pieces of text and their ids. Ids need not be contiguous. Immutable once a tokenizer owns it.
class Vocab {
 public:
  Vocab() = default;
  Vocab(Vocab&&) = default;
  Vocab& operator=(Vocab&&) = default;
  Vocab(const Vocab&) = delete;
  Vocab& operator=(const Vocab&) = delete;

  /// Largest id that is accepted; far above any real vocabulary, so that a file cannot ask for all
  /// memory.
  static constexpr int kMaxId = (1 << 24) - 1;

  /// Gives `piece` the number `id`; a piece that is known keeps its number, an id that is taken
  /// keeps its piece.
  void add(std::string_view piece, int id);

  /// The id of `piece`, or -1.
  int find(std::string_view piece) const;

  /// The piece with number `id`; empty when there is none.
  std::string_view piece(int id) const;

  bool has(int id) const { return id >= 0 && id < size() && used_[static_cast<size_t>(id)]; }

  /// One more than the largest id.
  int size() const { return static_cast<int>(pieces_.size()); }

  /// How many pieces there are.
  int count() const { return static_cast<int>(ids_.size()); }

 private:
  // A deque never moves its strings, so the map may point into them.
  std::deque<std::string> pieces_;
  std::deque<bool> used_;
  std::deque<std::string> spare_;
  std::unordered_map<std::string_view, int> ids_;
};

}  // namespace sala
