#include "grammar/matcher.h"

#include <array>
#include <string>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

constexpr size_t kMostMemory = size_t{16} << 20;  // of places and masks: then they are made anew

void allow(std::vector<uint64_t>& mask, int32_t token) {
  mask[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
}

bool has(const std::vector<uint64_t>& mask, int32_t token) {
  return (mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
}

}  // namespace

Matcher::Matcher(Constraint constraint, std::vector<int> ends)
    : constraint_(std::move(constraint)),
      ends_(std::move(ends)),
      recogniser_(constraint_.grammar),
      place_(recogniser_.start()) {}

Matcher::Mask Matcher::mask_of(Recogniser::Place place) {
  recogniser_.begin_work();
  const Vocabulary& vocabulary = *constraint_.vocabulary;
  const Vocabulary::Tree& tree = vocabulary.tree(first_);
  const auto size = static_cast<size_t>(vocabulary.size());
  Mask mask(size / 64 + 1);  // with a bit for nodes where no token ends
  std::array<Recogniser::Place, Vocabulary::kLongest + 1> path;  // by depth
  path[0] = place;
  const Vocabulary::Node* const nodes = tree.nodes.data();
  const auto count = static_cast<int32_t>(tree.nodes.size());
  for (int32_t i = 0; i < count;) {
    const Vocabulary::Node& node = nodes[i];
    const Recogniser::Place next = recogniser_.next(path[node.depth], node.byte);
    if (next == Recogniser::kNowhere) {
      i = node.end;
      continue;
    }
    path[size_t{node.depth} + 1] = next;
    allow(mask, node.token);
    ++i;
  }
  mask.back() &= ~(~uint64_t{0} << (size % 64));
  mask.resize((size + 63) / 64);
  for (const auto& [token, twin] : tree.twins)
    if (has(mask, token)) allow(mask, twin);
  if (recogniser_.may_end(place))
    for (const int token : ends_) allow(mask, token);
  return mask;
}

std::span<const uint64_t> Matcher::allowed() {
  const auto at = masks_.find(place_);
  return at != masks_.end() ? at->second : masks_.emplace(place_, mask_of(place_)).first->second;
}

void Matcher::accept(int token) {
  recogniser_.begin_work();
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
