#include "text/thinking.h"

#include <algorithm>
#include <utility>

namespace sala {
namespace {

constexpr std::string_view kOpen = "<think>", kClose = "</think>", kSpace = " \t\r\n";

/// How many of the last bytes of `text` begin `tag`.
size_t partial(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n)
    if (text.ends_with(tag.substr(0, n))) return n;
  return 0;
}

}  // namespace

ThinkingSplitter::Part ThinkingSplitter::push(std::string_view piece) {
  waiting_ += piece;
  Part part;
  if (state_ == State::undecided) {
    const size_t begin = std::min(waiting_.find_first_not_of(kSpace), waiting_.size());
    const std::string_view rest = std::string_view(waiting_).substr(begin);
    if (rest.starts_with(kOpen)) {
      waiting_.erase(0, begin + kOpen.size());
      state_ = State::thinking;
    } else if (!kOpen.starts_with(rest)) {
      state_ = State::saying;
    } else {
      return part;
    }
  }
  if (state_ == State::thinking) {
    const size_t close = waiting_.find(kClose);
    if (close == std::string::npos) {
      const size_t keep = partial(waiting_, kClose);
      part.thought = waiting_.substr(0, waiting_.size() - keep);
      waiting_.erase(0, part.thought.size());
      return part;
    }
    part.thought = waiting_.substr(0, close);
    waiting_.erase(0, close + kClose.size());
    state_ = State::saying;
    at_start_ = true;
  }
  if (at_start_) {
    waiting_.erase(0, std::min(waiting_.find_first_not_of("\r\n"), waiting_.size()));
    at_start_ = waiting_.empty();
  }
  part.said = std::exchange(waiting_, {});
  return part;
}

ThinkingSplitter::Part ThinkingSplitter::flush() {
  Part part;
  (state_ == State::thinking ? part.thought : part.said) = std::exchange(waiting_, {});
  return part;
}

}  // namespace sala
