#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/thinking.h"
#include "text/tokenizer.h"

namespace sala {

/// Ends a thought that has become too long, as if the model had ended it there. One thread at a
/// time.
class ThoughtLimit {
 public:
  /// `most` tokens of a thought that has `begun` or may begin (then <think> is one of them).
  ThoughtLimit(const Tokenizer& tokenizer, Thought thought, int64_t most);

  /// The token that comes next whatever the model says; nothing while the thought may go on.
  std::optional<int> must() const;
  /// The next token's text.
  void accept(std::string_view text);
  /// No thought can come any more.
  bool over() const { return splitter_.saying() && ended_ == end_.size(); }

 private:
  std::vector<int> end_;
  size_t ended_ = 0;  ///< tokens of it that have come
  int64_t left_;      ///< tokens
  ThinkingSplitter splitter_;
};

}  // namespace sala
