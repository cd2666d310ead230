#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "cache/snapshots.h"

namespace sala {

/// The texts that a cache remembers, as a radix tree whose edges are pages of tokens: a path from
/// the root is a text, each node on it one page. Only leaves may hold fewer tokens than a page. It
/// counts no references: who owns it does, told by the callbacks.
class PrefixIndex {
 public:
  using OnPage = std::function<void(int32_t page)>;

  explicit PrefixIndex(int page) : page_(page) {}

  /// What is remembered of a text's beginning.
  struct Match {
    int64_t tokens = 0;                  ///< how many of its first tokens
    std::vector<int32_t> pages;          ///< that hold them; the last may hold others behind them
    std::vector<SnapshotRef> snapshots;  ///< at positions up to `tokens`, ascending
  };
  Match find(std::span<const int> tokens);

  /// Remembers a text whose tokens `pages` hold, and its snapshots. `take` hears of each page that
  /// the index holds from now on, `drop` of each that a longer one replaces.
  void insert(std::span<const int> tokens, std::span<const int32_t> pages,
              std::span<const SnapshotRef> snapshots, const OnPage& take, const OnPage& drop);

  /// Forgets the end of the text that nobody has asked for longest and whose page `may_drop` lets
  /// go. False when there is none.
  bool forget_one(const std::function<bool(int32_t page)>& may_drop, const OnPage& drop);

  /// Every page that the index holds.
  std::vector<int32_t> pages() const;

 private:
  struct Node {
    Node* parent = nullptr;
    std::vector<int> tokens;
    int32_t page = -1;
    std::vector<SnapshotRef> snapshots;
    std::multimap<int, std::unique_ptr<Node>> children;  ///< by their first token
    int64_t used = 0;
  };

  /// The child that shares most of its first tokens with `tokens`, and how many.
  std::pair<Node*, size_t> closest(Node& node, std::span<const int> tokens) const;
  void touch(Node& node);

  int page_;
  Node root_;
  int64_t clock_ = 0;
  std::set<std::pair<int64_t, Node*>> leaves_;  ///< by use
};

}  // namespace sala
