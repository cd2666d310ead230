#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace sala {

/// The parts of a tokenizer: added tokens are cut out, the rest is normalised, cut into words, and
/// merged. The loaders (tokenizer.json, tokenizer.model, GGUF) fill it; nothing changes it
/// afterwards.
struct Tokenizer::Impl {
  std::string name;
  Vocab vocab;
  AddedTokens added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<const Bpe> model;
  Decoder decoder;
  bool repairs = true;  ///< false: the normaliser takes any bytes
  std::optional<int> bos, eos, unk, pad;
  bool adds_bos = false;
  bool adds_eos = false;

  /// How a piece is written where decoders look at it; empty when the id is not in use.
  std::string_view decoder_piece(int id) const {
    const std::string_view piece = added.decoder_piece(id);
    return piece.empty() ? vocab.piece(id) : piece;
  }
  bool has(int id) const { return vocab.has(id) || added.find(id) != nullptr; }

  /// Adds a token as Hugging Face's `tokenizers` does: under the number that its text has already,
  /// else the next free.
  void add_token(const AddedToken& token);
};

/// Reads tokenizer.json of `directory`, or its tokenizer.model, with what the files beside it add.
std::unique_ptr<Tokenizer> read_tokenizer_json(const std::filesystem::path& directory);
std::unique_ptr<Tokenizer> read_tokenizer_model(const std::filesystem::path& directory);

/// The same from the contents of the file alone.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name);
std::unique_ptr<Tokenizer> parse_tokenizer_model(std::span<const std::byte> bytes,
                                                 const std::string& name);

}  // namespace sala
