#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace sala {

/// Turns pieces of the vocabulary back into text, as "decoder" of tokenizer.json describes it.
/// Immutable: thread-safe.
class Decoder {
 public:
  using Pieces = std::vector<std::string>;
  using Step = std::function<Pieces(Pieces)>;
  using Rewrite = std::function<std::string(std::string_view piece, bool first)>;

  /// The same as a rule for one piece at a time. A stream is the rewritten pieces one after the
  /// other, where pieces like <0x41> (`byte_tokens`) or all of them (`byte_letters`) are raw bytes
  /// that may be parts of characters; at its very beginning up to `strip` characters `stripped` are
  /// left out.
  struct Streaming {
    bool possible = true;  ///< false: what a piece becomes depends on more than itself
    bool byte_letters = false;
    bool byte_tokens = false;
    std::vector<Rewrite> rewrites;
    char32_t stripped = 0;
    size_t strip = 0;
    /// sentencepiece: a mark "▁" that begins a piece is left out while nothing has been given;
    /// once, or always.
    bool first_mark = false;
    bool all_marks = false;
  };

  /// What sentencepiece's decoder needs to know of a model.
  struct SentencePiece {
    std::string unknown;  ///< the unknown piece, printed as `unknown_surface`
    std::string unknown_surface;
    bool strips_first_mark = true;
    bool strips_all_marks = false;
  };
  static Decoder sentencepiece(const SentencePiece& model);

  /// Reads "decoder"; null gives one that joins pieces with spaces. Throws Error for a kind that is
  /// not supported.
  static Decoder from_json(const Json& json, const std::string& where);

  /// The text of a whole sequence of pieces.
  std::string decode(Pieces pieces) const;

  const Streaming& streaming() const { return streaming_; }

 private:
  void add_json(const Json& json, const std::string& where);
  void add_strip(const Json& json, const std::string& where);
  void add_metaspace(const Json& json, const std::string& where);
  /// A step that treats each piece by itself.
  void add_rewrite(Rewrite rewrite);

  bool joins_with_spaces_ = false;
  bool fused_ = false;  // while reading: the pieces are one string already
  std::vector<Step> steps_;
  Streaming streaming_;
};

/// The byte that a piece like <0x41> stands for, or -1.
int byte_of_token(std::string_view piece);

/// The bytes of a piece written in the byte alphabet; the piece itself where a character is not of
/// the alphabet.
std::string bytes_of_letters(std::string_view piece);

}  // namespace sala
