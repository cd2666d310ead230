#include "grammar/automaton.h"

#include <map>
#include <utility>

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
  Automaton out;
  std::map<std::pair<int, int>, int> known;
  std::vector<std::pair<int, int>> pairs;  // of out's states
  const auto ends = [](const Automaton& one, int state) {
    return state >= 0 && one.states[static_cast<size_t>(state)].end;
  };
  const auto state_of = [&](std::pair<int, int> pair) {
    const auto [at, fresh] = known.emplace(pair, static_cast<int>(pairs.size()));
    if (fresh) {
      if (pairs.size() >= kMostStates)
        fail("an expression takes more than {} states; make its bounds smaller", kMostStates);
      pairs.push_back(pair);
      out.states.push_back({.end = keeps(ends(a, pair.first), ends(b, pair.second))});
    }
    return at->second;
  };
  state_of({0, 0});
  for (size_t i = 0; i < pairs.size(); ++i) {
    const auto [x, y] = pairs[i];
    for (int byte = 0; byte < 256; ++byte) {
      const auto c = static_cast<uint8_t>(byte);
      const std::pair<int, int> behind = {x < 0 ? -1 : a.next(x, c), y < 0 ? -1 : b.next(y, c)};
      if (behind == std::pair(-1, -1)) continue;
      const int to = state_of(behind);
      std::vector<Automaton::Arc>& arcs = out.states[i].arcs;
      if (!arcs.empty() && arcs.back().to == to && arcs.back().last + 1 == byte)
        arcs.back().last = c;
      else
        arcs.push_back({c, c, to});
    }
  }
  return out;
}

}  // namespace sala
