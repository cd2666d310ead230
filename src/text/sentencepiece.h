#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/tokenizer_impl.h"

namespace sala {

/// What a sentencepiece model says, from a tokenizer.model file or from GGUF keys.
struct SentencePieceModel {
  enum Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    int type = kNormal;
  };
  std::vector<Piece> pieces;
  int algorithm = 1;  ///< 1 unigram, 2 BPE, 3 words, 4 characters
  bool byte_fallback = false;
  bool space_as_suffix = false;
  int unk = 0;
  int bos = 1;
  int eos = 2;
  int pad = -1;
  std::string unk_surface = " \xE2\x81\x87 ";
  std::string charsmap;  ///< compiled rules of its normaliser; may be empty
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Reads a tokenizer.model file (a protobuf). Bounded. Throws Error naming `name` and the field.
SentencePieceModel read_sentencepiece(std::span<const std::byte> bytes, const std::string& name);

/// Makes `impl` work as sentencepiece does with a BPE model. Throws Error for other algorithms.
void use_sentencepiece(Tokenizer::Impl& impl, const SentencePieceModel& model);

/// sentencepiece's normaliser: rules by longest match, spaces to "▁", one in front. `untouched` are
/// pieces that no rule changes. Takes any bytes and gives valid UTF-8.
Normalizer::Step sentencepiece_normalizer(const SentencePieceModel& model,
                                          std::shared_ptr<const Trie> untouched,
                                          const std::string& name);

}  // namespace sala
