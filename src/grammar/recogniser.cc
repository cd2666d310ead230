#include "grammar/recogniser.h"

#include <algorithm>
#include <ranges>
#include <unordered_set>

#include "base/error.h"

namespace sala {

Recogniser::Recogniser(std::shared_ptr<const Grammar> grammar)
    : grammar_(std::move(grammar)),
      classes_(static_cast<size_t>(grammar_->classes())),
      stacks_{{-1, -1}} {}

Recogniser::Place Recogniser::start() {
  begin_work();
  return place_of({{grammar_->start(), 0}});
}

int Recogniser::push(int back, int below) {
  const uint64_t key = static_cast<uint64_t>(back) << 32 | static_cast<uint32_t>(below);
  const auto [at, fresh] = known_stacks_.emplace(key, static_cast<int>(stacks_.size()));
  if (fresh) stacks_.push_back({back, below});
  return at->second;
}

/// The place where all of `from` are open, and what they are without a byte.
Recogniser::Place Recogniser::place_of(std::vector<Way> from) {
  PlaceData place{.ways = {}, .may_end = false};
  std::vector<Way> few;  // seen, while looking through them is faster than hashing
  std::unordered_set<uint64_t> many;
  const auto is_new = [&](const Way& way) {
    constexpr size_t kFew = 24;
    const auto key = [](const Way& one) {
      return static_cast<uint64_t>(one.state) << 32 | static_cast<uint32_t>(one.stack);
    };
    if (many.empty() && few.size() < kFew) {
      if (std::ranges::find(few, way) != few.end()) return false;
      few.push_back(way);
      return true;
    }
    for (const Way& one : few) many.insert(key(one));
    few.clear();
    if (!many.insert(key(way)).second) return false;
    if (many.size() > kMostWays)
      fail("the grammar is too ambiguous: more than {} ways through it are open at once",
           kMostWays);
    return true;
  };
  while (!from.empty()) {
    const Way way = from.back();
    from.pop_back();
    if (!is_new(way)) continue;
    if (++work_ > kMostWork)
      fail("the grammar is too ambiguous: a step takes more than {} looks at ways through it",
           kMostWork);
    const Grammar::State& state = grammar_->state(way.state);
    if (!state.arcs.empty()) place.ways.push_back(way);
    for (const int same : state.empty) from.push_back({same, way.stack});
    for (const Grammar::Call& call : state.calls)
      from.push_back({call.start, grammar_->state(call.back).only_end
                                      ? way.stack
                                      : push(call.back, way.stack)});
    if (!state.end) continue;
    if (way.stack == 0)
      place.may_end = true;
    else
      from.push_back({stacks_[static_cast<size_t>(way.stack)].back,
                      stacks_[static_cast<size_t>(way.stack)].below});
  }
  std::ranges::sort(place.ways);
  return place.ways.empty() && !place.may_end ? kNowhere : number_of(std::move(place));
}

Recogniser::Place Recogniser::number_of(PlaceData place) {
  uint64_t hash = place.may_end ? 1 : 0;
  for (const Way& way : place.ways)
    for (const int part : {way.state, way.stack})
      hash = (hash ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15 ^ hash >> 29;
  const auto [first, last] = known_places_.equal_range(hash);
  for (auto at = first; at != last; ++at) {
    const PlaceData& known = places_[static_cast<size_t>(at->second)];
    if (known.ways == place.ways && known.may_end == place.may_end) return at->second;
  }
  const auto id = static_cast<Place>(places_.size());
  known_places_.emplace(hash, id);
  memory_ += sizeof(PlaceData) + 64 + place.ways.size() * sizeof(Way) + classes_ * sizeof(Place);
  places_.push_back(std::move(place));
  next_.resize(next_.size() + classes_, kUnknown);
  return id;
}

Recogniser::Place Recogniser::find_next(Place place, uint8_t byte) {
  std::vector<Way> ways;
  for (const Way& way : places_[static_cast<size_t>(place)].ways)
    for (const Automaton::Arc& arc : grammar_->state(way.state).arcs)
      if (arc.first <= byte && byte <= arc.last) ways.push_back({arc.to, way.stack});
  const Place next = ways.empty() ? kNowhere : place_of(std::move(ways));
  next_[static_cast<size_t>(place) * classes_ + static_cast<size_t>(grammar_->class_of(byte))] =
      next;
  return next;
}

Recogniser::Place Recogniser::forget_all_but(Place place) {
  const PlaceData kept = places_[static_cast<size_t>(place)];
  std::vector<std::vector<int>> stacks;  // of the kept ways, from the top
  for (const Way& way : kept.ways) {
    stacks.emplace_back();
    for (int at = way.stack; at != 0; at = stacks_[static_cast<size_t>(at)].below)
      stacks.back().push_back(stacks_[static_cast<size_t>(at)].back);
  }
  *this = Recogniser(grammar_);
  PlaceData again{.ways = {}, .may_end = kept.may_end};
  for (size_t i = 0; i < stacks.size(); ++i) {
    int stack = 0;
    for (const int back : stacks[i] | std::views::reverse) stack = push(back, stack);
    again.ways.push_back({kept.ways[i].state, stack});
  }
  std::ranges::sort(again.ways);
  return number_of(std::move(again));
}

}  // namespace sala
