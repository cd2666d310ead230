#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace sala {

/// The bytes of a vocabulary's tokens as a tree, in the order in which it is walked. Special tokens
/// and those without bytes are not in it. Immutable: any thread.
class Vocabulary {
 public:
  /// A node's children follow it, up to `end`.
  struct Node {
    int32_t end;     ///< index behind the last node below it
    int32_t token;   ///< one of the tokens that end here, or `size`
    uint16_t depth;  ///< bytes in front of its own
    uint8_t byte;
  };
  struct Tree {
    std::vector<Node> nodes;
    std::vector<std::pair<int32_t, int32_t>> twins;  ///< the token of a node, another one of its
  };

  /// `size`: ids of the model, which may be more than the tokenizer's. The tokenizer must outlive
  /// it. Throws Error where what a token adds depends on more than itself.
  Vocabulary(const Tokenizer& tokenizer, int64_t size);

  /// Tokens as they go on with a text, or as they begin one, where they may lose a space.
  const Tree& tree(bool first) const { return first && differs_ ? first_ : tree_; }
  int64_t size() const { return size_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  static constexpr size_t kLongest = 4096;  ///< bytes of a token; longer ones are never written

 private:
  Tree plant(bool first);

  const Tokenizer& tokenizer_;
  int64_t size_;
  Tree tree_, first_;
  bool differs_ = false;  ///< a token is another at the beginning
};

}  // namespace sala
