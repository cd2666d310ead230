#pragma once

#include <memory>
#include <mutex>

#include "grammar/matcher.h"
#include "text/chat_template.h"

namespace sala {

/// A language with a thought in front of it, which may say anything.
Language behind_thought(Thought thought, Language language);

/// Makes constraints for one model. Any thread.
class Constraints {
 public:
  /// The tokenizer must outlive it and its constraints. `vocab`: tokens of the model.
  Constraints(const Tokenizer& tokenizer, int64_t vocab) : tokenizer_(tokenizer), vocab_(vocab) {}

  /// Throws Error where nothing is in the language, and where the tokenizer does not allow it.
  Constraint of(const Language& language, const Rules& rules = {}) const;

 private:
  const Tokenizer& tokenizer_;
  int64_t vocab_;
  mutable std::once_flag once_;
  mutable std::shared_ptr<const Vocabulary> vocabulary_;  ///< made when it is first asked for
};

}  // namespace sala
