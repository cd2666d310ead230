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
  auto made = std::make_unique<const Grammar>(language, rules);
  const int64_t size = made->size();
  const std::shared_ptr<const Grammar> grammar(made.release(),
                                               [states = states_, size](const Grammar* one) {
                                                 delete one;
                                                 *states -= size;
                                               });
  if ((*states_ += size) > kMostStatesAtATime)
    throw TooManyConstraints(
        "the grammars and schemas of the requests that are here leave no room for another");
  std::call_once(once_,
                 [&] { vocabulary_ = std::make_shared<const Vocabulary>(tokenizer_, vocab_); });
  return {grammar, vocabulary_};
}

}  // namespace sala
