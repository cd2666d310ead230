#include "engine/stop.h"

#include <utility>

#include "base/error.h"

namespace sala {
namespace {

uint64_t edge(int node, unsigned char byte) { return static_cast<uint64_t>(node) * 256 + byte; }

}  // namespace

StopStrings::StopStrings(const std::vector<std::string>& stops) : nodes_(1) {
  std::vector<std::pair<int, unsigned char>> came_by(1);  // parent and byte of every node
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty()) fail("a stop string is empty; expected a text");
    lengths_.push_back(stops[i].size());
    int node = 0;
    for (const char c : stops[i]) {
      const auto byte = static_cast<unsigned char>(c);
      const auto [it, added] = children_.try_emplace(edge(node, byte), int(nodes_.size()));
      if (added) {
        nodes_.push_back({.depth = nodes_[static_cast<size_t>(node)].depth + 1});
        came_by.emplace_back(node, byte);
      }
      node = it->second;
    }
    if (nodes_[static_cast<size_t>(node)].stop < 0)
      nodes_[static_cast<size_t>(node)].stop = static_cast<int>(i);
  }
  // Fallbacks lead to nodes of less depth, so those come first.
  std::vector<std::vector<int>> by_depth;
  for (int node = 1; node < static_cast<int>(nodes_.size()); ++node) {
    const auto depth = static_cast<size_t>(nodes_[static_cast<size_t>(node)].depth);
    if (by_depth.size() < depth) by_depth.resize(depth);
    by_depth[depth - 1].push_back(node);
  }
  for (const std::vector<int>& level : by_depth) {
    for (const int n : level) {
      Node& node = nodes_[static_cast<size_t>(n)];
      const auto [parent, byte] = came_by[static_cast<size_t>(n)];
      if (parent != 0) node.fallback = advance(nodes_[static_cast<size_t>(parent)].fallback, byte);
      if (node.stop < 0) node.stop = nodes_[static_cast<size_t>(node.fallback)].stop;
    }
  }
}

int StopStrings::child(int node, unsigned char byte) const {
  const auto it = children_.find(edge(node, byte));
  return it == children_.end() ? -1 : it->second;
}

int StopStrings::advance(int node, unsigned char byte) const {
  for (;; node = nodes_[static_cast<size_t>(node)].fallback) {
    if (const int next = child(node, byte); next >= 0) return next;
    if (node == 0) return 0;
  }
}

std::string StopStrings::push(std::string_view piece) {
  SALA_CHECK(!found(), "text after a stop string");
  for (size_t i = 0; i < piece.size(); ++i) {
    waiting_ += piece[i];
    at_ = advance(at_, static_cast<unsigned char>(piece[i]));
    const int stop = nodes_[static_cast<size_t>(at_)].stop;
    if (stop < 0) continue;
    found_ = stop;
    rest_ = piece.substr(i + 1);
    waiting_.resize(waiting_.size() - lengths_[static_cast<size_t>(stop)]);
    return std::exchange(waiting_, {});
  }
  const size_t free = waiting_.size() - static_cast<size_t>(nodes_[static_cast<size_t>(at_)].depth);
  std::string given = waiting_.substr(0, free);
  waiting_.erase(0, free);
  return given;
}

std::string StopStrings::flush() {
  at_ = 0;
  found_ = -1;
  rest_.clear();
  return std::exchange(waiting_, {});
}

}  // namespace sala
