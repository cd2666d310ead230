#include "grammar/vocabulary.h"

#include <algorithm>
#include <string>
#include <utility>

namespace sala {

Vocabulary::Vocabulary(const Tokenizer& tokenizer, int64_t size)
    : tokenizer_(tokenizer), size_(size), tree_(plant(false)) {
  for (int id = 0; id < std::min<int64_t>(size, tokenizer.size()) && !differs_; ++id)
    differs_ = tokenizer.bytes_of(id, true) != tokenizer.bytes_of(id, false);
  if (differs_) first_ = plant(true);
}

Vocabulary::Tree Vocabulary::plant(bool first) {
  std::vector<std::pair<std::string, int>> tokens;
  for (int id = 0; id < std::min<int64_t>(size_, tokenizer_.size()); ++id) {
    std::string bytes = id == tokenizer_.unk() ? "" : tokenizer_.bytes_of(id, first);
    if (!bytes.empty() && bytes.size() <= kLongest) tokens.emplace_back(std::move(bytes), id);
  }
  std::ranges::sort(tokens);
  Tree tree;
  std::vector<Node>& nodes = tree.nodes;
  std::vector<size_t> path;  // nodes from the root to the last one
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back())
      nodes[path.back()].end = static_cast<int32_t>(nodes.size());
  };
  for (const auto& [bytes, id] : tokens) {
    size_t shared = 0;
    while (shared < path.size() && shared < bytes.size() &&
           nodes[path[shared]].byte == static_cast<uint8_t>(bytes[shared]))
      ++shared;
    leave(shared);
    for (size_t i = shared; i < bytes.size(); ++i) {
      path.push_back(nodes.size());
      nodes.push_back({.end = 0,
                       .token = static_cast<int32_t>(size_),
                       .depth = static_cast<uint16_t>(i),
                       .byte = static_cast<uint8_t>(bytes[i])});
    }
    int32_t& token = nodes[path.back()].token;
    if (token == size_)
      token = id;
    else
      tree.twins.emplace_back(token, id);
  }
  leave(0);
  return tree;
}

}  // namespace sala
