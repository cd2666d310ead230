#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/recogniser.h"
#include "grammar/vocabulary.h"

namespace sala {

/// What a reply may be: the texts of a grammar, written in the tokens of a vocabulary. Any thread.
struct Constraint {
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<const Vocabulary> vocabulary;
};

/// Follows a reply that grows, and says which tokens may come next: those whose bytes go on with
/// a text of the grammar, so that it is never at a dead end. One thread at a time.
class Matcher {
 public:
  /// `ends`: tokens that end a reply; they may come where a text may end.
  Matcher(Constraint constraint, std::vector<int> ends);

  /// A bit for each id of the vocabulary: whether it may come next. Until the next call.
  std::span<const uint64_t> allowed();
  /// Whether the text may end here, and whether it must.
  bool may_end() const { return recogniser_.may_end(place_); }
  bool must_end() const { return may_end() && !recogniser_.goes_on(place_); }
  /// The next token, one of the allowed ones that do not end the reply.
  void accept(int token);

 private:
  using Mask = std::vector<uint64_t>;
  Mask mask_of(Recogniser::Place place);

  Constraint constraint_;
  std::vector<int> ends_;
  Recogniser recogniser_;
  Recogniser::Place place_;
  bool first_ = true;  ///< no token has come
  std::unordered_map<Recogniser::Place, Mask> masks_;
};

}  // namespace sala
