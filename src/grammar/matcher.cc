#include "grammar/matcher.h"

#include <string>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

constexpr size_t kMostMemory = size_t{64} << 20;  // of places and masks: then they are made anew

void allow(std::vector<uint64_t>& mask, int32_t token) {
  mask[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
}

}  // namespace

Matcher::Matcher(Constraint constraint, std::vector<int> ends)
    : constraint_(std::move(constraint)),
      ends_(std::move(ends)),
      recogniser_(constraint_.grammar),
      place_(recogniser_.start()) {}

Matcher::Mask Matcher::mask_of(Recogniser::Place place) {
  const Vocabulary& vocabulary = *constraint_.vocabulary;
  const Vocabulary::Tree& tree = vocabulary.tree(first_);
  Mask mask((static_cast<size_t>(vocabulary.size()) + 63) / 64);
  std::vector<Recogniser::Place> path = {place};  // by depth
  for (size_t i = 0; i < tree.nodes.size();) {
    const Vocabulary::Node& node = tree.nodes[i];
    const Recogniser::Place next = recogniser_.next(path[node.depth], node.byte);
    if (next == Recogniser::kNowhere) {
      i = static_cast<size_t>(node.end);
      continue;
    }
    path.resize(size_t{node.depth} + 1);
    path.push_back(next);
    for (int32_t token = node.token; token >= 0; token = tree.same[static_cast<size_t>(token)])
      allow(mask, token);
    ++i;
  }
  if (recogniser_.may_end(place))
    for (const int token : ends_) allow(mask, token);
  return mask;
}

std::span<const uint64_t> Matcher::allowed() {
  const auto at = masks_.find(place_);
  return at != masks_.end() ? at->second : masks_.emplace(place_, mask_of(place_)).first->second;
}

void Matcher::accept(int token) {
  const std::string bytes = constraint_.vocabulary->tokenizer().bytes_of(token, first_);
  for (const char c : bytes) {
    place_ = recogniser_.next(place_, static_cast<uint8_t>(c));
    SALA_CHECK(place_ != Recogniser::kNowhere, "token {} is not allowed", token);
  }
  if (std::exchange(first_, false) ||
      recogniser_.memory() +
              masks_.size() * static_cast<size_t>(constraint_.vocabulary->size()) / 8 >
          kMostMemory) {
    masks_.clear();
    place_ = recogniser_.forget_all_but(place_);
  }
}

}  // namespace sala
