#pragma once

#include <string>
#include <string_view>

namespace sala {

/// Splits a reply that grows into what the model thinks, between <think> and </think>, and what it
/// says. A tag may be cut anywhere between two pieces. One thread at a time.
class ThinkingSplitter {
 public:
  struct Part {
    std::string thought, said;
  };

  /// `thinking`: the prompt has opened the thought already.
  explicit ThinkingSplitter(bool thinking)
      : state_(thinking ? State::thinking : State::undecided) {}

  Part push(std::string_view piece);
  /// The text is over: what was waiting.
  Part flush();

  /// Whether it is in a thought, and whether no thought can come any more.
  bool thinking() const { return state_ == State::thinking; }
  bool saying() const { return state_ == State::saying; }

 private:
  enum class State { undecided, thinking, saying };
  State state_;
  bool at_start_ = false;  ///< of what is said: line feeds after </think> belong to nobody
  std::string waiting_;
};

}  // namespace sala
