#include "engine/thought_limit.h"

#include <algorithm>

namespace sala {

ThoughtLimit::ThoughtLimit(const Tokenizer& tokenizer, Thought thought, int64_t most)
    : end_(tokenizer.encode("\n</think>\n\n", {.parse_special = true})),
      left_(most),
      splitter_(thought == Thought::begun) {}

std::optional<int> ThoughtLimit::must() const {
  const bool ends = ended_ > 0 || (splitter_.thinking() && left_ <= 0);
  return ends && ended_ < end_.size() ? std::optional(end_[ended_]) : std::nullopt;
}

void ThoughtLimit::accept(std::string_view text) {
  if (must())
    ++ended_;
  else
    --left_;
  splitter_.push(text);
  if (splitter_.saying() && ended_ == 0) ended_ = end_.size();  // it has ended by itself
}

}  // namespace sala
