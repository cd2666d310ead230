#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace sala {

/// A deterministic finite automaton over bytes. State 0 is the first one; a byte without an arc
/// ends in no text.
struct Automaton {
  struct Arc {
    uint8_t first, last;  ///< bytes, both included
    int to;
  };
  struct State {
    std::vector<Arc> arcs{};  ///< ascending, apart from each other
    bool end = false;         ///< a text may end here
  };
  std::vector<State> states;

  /// The state behind `byte`, or -1.
  int next(int state, uint8_t byte) const;
  bool accepts(std::string_view text) const;
};

/// The texts for whose membership in `a` and in `b` `keeps` says yes, for example those of both.
/// `keeps(false, false)` must be false. Throws Error where it takes more than kMostStates.
Automaton combined(const Automaton& a, const Automaton& b,
                   const std::function<bool(bool in_a, bool in_b)>& keeps);

/// States that an automaton may have.
inline constexpr int kMostStates = 50'000;

}  // namespace sala
