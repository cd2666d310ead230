#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/normalizer.h"

namespace sala {

/// A token that stands beside the model's vocabulary and is recognised as a whole before any other
/// processing.
struct AddedToken {
  std::string content;
  bool special = false;  ///< a control token: left out of what a user sees, and never recognised in
                         ///< a user's text
  bool normalized = false;   ///< looked for in the normalised text, by its own normalised form
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
};

/// A prefix tree of byte strings that finds the longest one beginning at a place.
class Trie {
 public:
  /// Maps `text` (not empty) to `value`; the first of two equal texts counts.
  void add(std::string_view text, int value);
  bool empty() const { return nodes_.size() <= 1; }

  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int value = -1;
  };
  /// The leftmost match at or after `from`, the longest of those; value -1 when there is none.
  Match find(std::string_view text, size_t from) const;

  /// The longest match exactly at `at`.
  Match find_at(std::string_view text, size_t at) const;

 private:
  struct Node {
    int value = -1;
    std::vector<std::pair<unsigned char, int>> next;  // sorted
  };
  int child(int node, unsigned char byte) const;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::vector<bool> starts_ = std::vector<bool>(256, false);
};

/// All added tokens of a tokenizer. Immutable once the tokenizer owns it: thread-safe.
class AddedTokens {
 public:
  /// Adds `token` with number `id`; its normalised form is made with `normalizer`.
  void add(const AddedToken& token, int id, const Normalizer& normalizer);

  struct Part {
    std::string_view text;
    int id = -1;  ///< -1: ordinary text
  };

  /// Stands behind the first character of a special token's spelling that is no token.
  static constexpr std::string_view kQuote = "\xEF\xB7\x90";

  /// Cuts `text` at the tokens that are looked for in raw (`normalized` false) or normalised text.
  /// With `parse_special`, kQuote in a part of ordinary text is for the caller to drop.
  std::vector<Part> split(std::string_view text, bool normalized, bool parse_special) const;

  /// Whether a special token is spelled at `at`, as it is written or as normalised text has it.
  bool spells_special(std::string_view text, size_t at) const {
    return special_spellings_.find_at(text, at).value >= 0;
  }

  bool has(bool normalized) const { return !(normalized ? normalized_ : raw_).empty(); }
  const AddedToken* find(int id) const;
  int id_of(std::string_view content) const;
  bool is_special(int id) const;

  /// How the token is written where decoders look at it: normalised.
  std::string_view decoder_piece(int id) const;

  /// True when a token that decoders see as `piece` is left out with the special ones.
  bool is_special_piece(std::string_view piece) const {
    return special_.contains(std::string(piece));
  }

  int largest_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }
  bool empty() const { return tokens_.empty(); }

 private:
  Trie raw_;
  Trie normalized_;
  Trie special_spellings_;
  std::map<int, AddedToken> tokens_;
  std::unordered_map<int, std::string> normal_forms_;
  std::unordered_map<std::string, int> ids_;
  std::unordered_set<std::string> special_;
};

}  // namespace sala
