#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "grammar/language.h"

namespace sala {

/// A context-free grammar over bytes, as a network of states: a text is a way from `start` to an
/// end (recursive transition networks, Woods 1970). Immutable: any thread. What can end in no text
/// is not in it.
class Grammar {
 public:
  struct Call {
    int start;  ///< of the rule that is read first
    int back;   ///< where it goes on behind it
  };
  struct State {
    std::vector<Automaton::Arc> arcs{};
    std::vector<int> empty{};  ///< states that it is too
    std::vector<Call> calls{};
    bool end = false;       ///< of its rule
    bool only_end = false;  ///< nothing else can come in its rule
  };

  /// `rules.list[i]` is what rule(i) stands for. Throws Error where no text is in the language,
  /// where a rule begins with itself, and where it takes more than kMostGrammarStates.
  Grammar(const Language& language, const Rules& rules = {});

  int start() const { return start_; }
  int64_t size() const { return std::ssize(states_); }
  const State& state(int id) const { return states_[static_cast<size_t>(id)]; }
  /// Bytes that no arc tells apart have one class.
  int classes() const { return classes_; }
  int class_of(uint8_t byte) const { return class_of_[byte]; }

 private:
  friend Automaton determinised(const Language& language);
  Grammar() = default;
  void prune();
  void find_classes();

  std::vector<State> states_;
  int start_ = 0;
  int classes_ = 1;
  std::array<uint8_t, 256> class_of_{};
};

inline constexpr int kMostGrammarStates = 400'000;

/// A language without rules as an automaton. Throws Error where it takes more than kMostStates.
Automaton determinised(const Language& language);

}  // namespace sala
