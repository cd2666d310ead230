#include "cache/prefix_index.h"

#include <algorithm>

namespace sala {

std::pair<PrefixIndex::Node*, size_t> PrefixIndex::closest(Node& node,
                                                           std::span<const int> tokens) const {
  std::pair<Node*, size_t> best = {nullptr, 0};
  if (tokens.empty()) return best;
  const auto [first, last] = node.children.equal_range(tokens[0]);
  for (auto it = first; it != last; ++it) {
    const auto& theirs = it->second->tokens;
    const auto common =
        static_cast<size_t>(std::ranges::mismatch(theirs, tokens).in1 - theirs.begin());
    if (common > best.second) best = {it->second.get(), common};
  }
  return best;
}

void PrefixIndex::touch(Node& node) {
  const bool leaf = leaves_.erase({node.used, &node}) > 0;
  node.used = clock_;
  if (leaf) leaves_.insert({node.used, &node});
}

PrefixIndex::Match PrefixIndex::find(std::span<const int> tokens) {
  Match match;
  ++clock_;
  for (Node* node = &root_;;) {
    const auto [child, common] = closest(*node, tokens);
    if (common == 0) return match;
    touch(*child);
    match.tokens += static_cast<int64_t>(common);
    match.pages.push_back(child->page);
    for (const SnapshotRef& snapshot : child->snapshots)
      if (snapshot->position() <= match.tokens) match.snapshots.push_back(snapshot);
    if (common < static_cast<size_t>(page_)) return match;
    tokens = tokens.subspan(common);
    node = child;
  }
}

void PrefixIndex::insert(std::span<const int> tokens, std::span<const int32_t> pages,
                         std::span<const SnapshotRef> snapshots, const OnPage& take,
                         const OnPage& drop) {
  ++clock_;
  Node* node = &root_;
  for (int64_t begin = 0; !tokens.empty(); begin += page_) {
    const auto here = tokens.first(std::min(tokens.size(), static_cast<size_t>(page_)));
    const int32_t page = pages[static_cast<size_t>(begin / page_)];
    auto [child, common] = closest(*node, here);
    if (child == nullptr || common < std::min(here.size(), child->tokens.size())) {
      auto made = std::make_unique<Node>();
      made->parent = node;
      made->used = clock_;
      made->page = page;
      child = node->children.emplace(here[0], std::move(made))->second.get();
      leaves_.erase({node->used, node});
      leaves_.insert({clock_, child});
      take(page);
    } else if (here.size() > child->tokens.size()) {
      take(page);  // the same tokens and more
      drop(child->page);
      child->page = page;
    }
    if (here.size() > child->tokens.size()) child->tokens.assign(here.begin(), here.end());
    touch(*child);
    const int64_t end = begin + static_cast<int64_t>(here.size());
    for (const SnapshotRef& snapshot : snapshots) {
      const int64_t at = snapshot->position();
      if (at <= begin || at > end || !snapshot->alive()) continue;
      std::erase_if(child->snapshots, [](const SnapshotRef& s) { return !s->alive(); });
      const auto place = std::ranges::lower_bound(child->snapshots, at, {},
                                                  [](const auto& s) { return s->position(); });
      if (place == child->snapshots.end() || (*place)->position() != at)
        child->snapshots.insert(place, snapshot);
    }
    tokens = tokens.subspan(here.size());
    node = child;
  }
}

bool PrefixIndex::forget_one(const std::function<bool(int32_t)>& may_drop, const OnPage& drop) {
  for (const auto& [used, leaf] : leaves_) {
    if (!may_drop(leaf->page)) continue;
    Node* node = leaf;
    Node* parent = node->parent;
    leaves_.erase({used, node});
    drop(node->page);
    const auto [first, last] = parent->children.equal_range(node->tokens[0]);
    parent->children.erase(
        std::find_if(first, last, [&](const auto& entry) { return entry.second.get() == node; }));
    if (parent != &root_ && parent->children.empty()) leaves_.insert({parent->used, parent});
    return true;
  }
  return false;
}

std::vector<int32_t> PrefixIndex::pages() const {
  std::vector<int32_t> pages;
  std::vector<const Node*> open = {&root_};
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (node->page >= 0) pages.push_back(node->page);
    for (const auto& [token, child] : node->children) open.push_back(child.get());
  }
  return pages;
}

}  // namespace sala
