#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "text/bpe.h"

namespace sala {

/// Merges one long word: a linked list of symbols, and the rules that could be applied, sorted by
/// rank. Time is linear but for the sorting of places within one rank; memory is linear.
class LongWord {
 public:
  LongWord(const Bpe& model, const std::vector<int>& ids);

  /// Applies all rules, best first, leftmost first, and appends what is left.
  void merge(std::vector<int>& out);

 private:
  static constexpr int kNone = -1;
  struct Symbol {
    int id = kNone;
    int previous = kNone;
    int next = kNone;
    int rank = kNone;    // of the rule that joins it with the next one
    int result = kNone;  // and what they become
  };
  /// A place where a rule could be applied when this was written; later ones of the same rank
  /// follow.
  struct Candidate {
    int at = kNone;
    int next = kNone;
  };

  void look(int at);
  void apply(int at, int rank);
  void apply_urgent(uint64_t before);
  static uint64_t pack(int rank, int at) {
    return static_cast<uint64_t>(static_cast<uint32_t>(rank)) << 32 | static_cast<uint32_t>(at);
  }

  const Bpe& model_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;
  std::vector<int> first_;  // of each rank's candidates
  std::vector<int> last_;
  int current_ = kNone;  // the rank that is being applied
  // Candidates that came up for this rank or an earlier one, in order.
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> urgent_;
};

}  // namespace sala
