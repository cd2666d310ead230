#include "grammar/constraints.h"

#include <utility>

namespace sala {

Language behind_thought(Thought thought, Language language) {
  if (thought == Thought::none) return language;
  const Language lines = repeated(one_of({{'\t', '\n'}, {'\r', '\r'}, {' ', ' '}}), 0, 8);
  Language rest = sequence({until("</think>"), lines});
  if (thought == Thought::possible)
    rest = optional(sequence({lines, literal("<think>"), std::move(rest)}));
  return sequence({std::move(rest), std::move(language)});
}

Constraint Constraints::of(const Language& language, const Rules& rules) const {
  auto grammar = std::make_shared<const Grammar>(language, rules);
  std::call_once(once_,
                 [&] { vocabulary_ = std::make_shared<const Vocabulary>(tokenizer_, vocab_); });
  return {std::move(grammar), vocabulary_};
}

}  // namespace sala
