#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "grammar/matcher.h"
#include "text/chat_template.h"

namespace sala {

/// A language with a thought in front of it, which may say anything.
Language behind_thought(Thought thought, Language language);

/// There are as many grammars at a time as a machine should have; when others have ended there is
/// room again.
class TooManyConstraints : public Error {
 public:
  using Error::Error;
};

/// Makes constraints for one model. Any thread.
class Constraints {
 public:
  /// The tokenizer must outlive it and its constraints. `vocab`: tokens of the model.
  Constraints(const Tokenizer& tokenizer, int64_t vocab) : tokenizer_(tokenizer), vocab_(vocab) {}

  /// Throws Error where nothing is in the language, and where the tokenizer does not allow it;
  /// TooManyConstraints where those that are there have more than kMostStatesAtATime together.
  Constraint of(const Language& language, const Rules& rules = {}) const;

  static constexpr int64_t kMostStatesAtATime = 3'000'000;  // of some 100 bytes

 private:
  const Tokenizer& tokenizer_;
  int64_t vocab_;
  /// Of grammars that are alive; shared with these, which may live longer.
  std::shared_ptr<std::atomic<int64_t>> states_ = std::make_shared<std::atomic<int64_t>>(0);
  mutable std::once_flag once_;
  mutable std::shared_ptr<const Vocabulary> vocabulary_;  ///< made when it is first asked for
};

}  // namespace sala
