#include "grammar/automaton.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"

namespace sala {

int Automaton::next(int state, uint8_t byte) const {
  for (const Arc& arc : states[static_cast<size_t>(state)].arcs)
    if (arc.first <= byte && byte <= arc.last) return arc.to;
  return -1;
}

bool Automaton::accepts(std::string_view text) const {
  int state = 0;
  for (const char c : text)
    if ((state = next(state, static_cast<uint8_t>(c))) < 0) return false;
  return states[static_cast<size_t>(state)].end;
}

Automaton combined(const Automaton& a, const Automaton& b,
                   const std::function<bool(bool in_a, bool in_b)>& keeps) {
  using Pair = std::array<int, 2>;  // states of a and b; -1: in no text of it any more
  const std::array<const Automaton*, 2> both = {&a, &b};
  Automaton out;
  std::map<Pair, int> known;
  std::vector<Pair> pairs;  // of out's states
  const auto state_of = [&](const Pair& pair) {
    const auto [at, fresh] = known.emplace(pair, static_cast<int>(pairs.size()));
    if (fresh) {
      if (pairs.size() >= kMostStates)
        fail("an expression takes more than {} states; make its bounds smaller", kMostStates);
      std::array<bool, 2> ends{};
      for (size_t i = 0; i < 2; ++i)
        ends[i] = pair[i] >= 0 && both[i]->states[static_cast<size_t>(pair[i])].end;
      pairs.push_back(pair);
      out.states.push_back({.end = keeps(ends[0], ends[1])});
    }
    return at->second;
  };
  state_of({0, 0});
  for (size_t i = 0; i < pairs.size(); ++i) {
    const Pair pair = pairs[i];
    std::vector<int> cuts;  // between them all bytes lead to the same
    for (size_t k = 0; k < 2; ++k)
      if (pair[k] >= 0)
        for (const Automaton::Arc& arc : both[k]->states[static_cast<size_t>(pair[k])].arcs)
          cuts.insert(cuts.end(), {arc.first, arc.last + 1});
    std::ranges::sort(cuts);
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (size_t cut = 0; cut + 1 < cuts.size(); ++cut) {
      const auto first = static_cast<uint8_t>(cuts[cut]),
                 last = static_cast<uint8_t>(cuts[cut + 1] - 1);
      Pair behind;
      for (size_t k = 0; k < 2; ++k) behind[k] = pair[k] < 0 ? -1 : both[k]->next(pair[k], first);
      if (behind == Pair{-1, -1}) continue;
      const int to = state_of(behind);
      std::vector<Automaton::Arc>& arcs = out.states[i].arcs;
      if (!arcs.empty() && arcs.back().to == to && arcs.back().last + 1 == first)
        arcs.back().last = last;
      else
        arcs.push_back({first, last, to});
    }
  }
  return out;
}

}  // namespace sala
