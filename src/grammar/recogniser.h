#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/grammar.h"

namespace sala {

/// Reads texts of a grammar byte by byte. All ways through the grammar are gone at once; where the
/// same ways are open it is the same place, and what a byte does there is worked out once (a
/// deterministic automaton made as it is used). One thread at a time.
class Recogniser {
 public:
  /// A place in the grammar: a number that holds until forget().
  using Place = int32_t;
  static constexpr Place kNowhere = -1;

  explicit Recogniser(std::shared_ptr<const Grammar> grammar);

  Place start();
  /// The place behind `byte`, or kNowhere. Throws Error where more than kMostWays are open, or more
  /// than kMostWork were looked at since start() or begin_work().
  Place next(Place place, uint8_t byte) {
    const auto entry =
        static_cast<size_t>(place) * classes_ + static_cast<size_t>(grammar_->class_of(byte));
    const Place known = next_[entry];
    return known != kUnknown ? known : find_next(place, byte);
  }
  void begin_work() { work_ = 0; }
  /// Whether the text may end here, and whether it can go on.
  bool may_end(Place place) const { return places_[static_cast<size_t>(place)].may_end; }
  bool goes_on(Place place) const { return !places_[static_cast<size_t>(place)].ways.empty(); }

  /// Bytes of memory that places take, about.
  size_t memory() const { return memory_; }
  /// Forgets all places but `place`, which it gives its new number.
  Place forget_all_but(Place place);

 private:
  static constexpr Place kUnknown = -2;
  static constexpr int kMostWays = 20'000, kMostWork = 500'000;

  /// A state of the grammar, and where it goes on behind its rule.
  struct Way {
    int state;
    int stack;  ///< index in stacks_; 0: behind it the text is over
    auto operator<=>(const Way&) const = default;
  };
  struct Stack {
    int back, below;
  };
  struct PlaceData {
    std::vector<Way> ways;  ///< ascending; states with arcs
    bool may_end;
  };

  Place find_next(Place place, uint8_t byte);
  Place place_of(std::vector<Way> from);
  Place number_of(PlaceData place);
  int push(int back, int below);

  std::shared_ptr<const Grammar> grammar_;
  size_t classes_;
  std::vector<Stack> stacks_;
  std::unordered_map<uint64_t, int> known_stacks_;  ///< by back and below
  std::vector<PlaceData> places_;
  std::unordered_multimap<uint64_t, Place> known_places_;  ///< by a hash of the ways
  std::vector<Place> next_;                                ///< [place, class]
  size_t memory_ = 0;
  int work_ = 0;  ///< ways that were looked at
};

}  // namespace sala
