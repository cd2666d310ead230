#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sala {

/// The contents of a GGUF file's `tokenizer.ggml.*` keys, filled by whoever reads the file (text
/// knows no GGUF). Ids are indices into `tokens`; -1 says that the file names no such token.
struct GgufVocab {
  std::string model;  ///< "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
  std::string pre;    ///< name of the pre-split of a "gpt2" model, such as "smollm"
  std::vector<std::string> tokens;
  std::vector<float> scores;  ///< one per token for "llama", else may be empty
  std::vector<int>
      types;  ///< 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty
  std::vector<std::string> merges;  ///< "left right", best first, for "gpt2"
  int bos = -1;
  int eos = -1;
  int unk = -1;
  int pad = -1;
  int eot = -1;
  std::optional<bool> add_bos;  ///< absent: what the kind of model implies
  std::optional<bool> add_eos;
  bool add_space_prefix = true;  ///< "llama": a text gets a leading space
};

struct EncodeOptions {
  /// Recognise special tokens written in the text. Off for anything a user wrote (a text must not
  /// be able to forge a turn); on for the output of a chat template, where what a user wrote is
  /// quoted.
  bool parse_special = false;
};

/// Text to token ids and back. Immutable after construction: any thread may call any method at any
/// time.
///
/// `encode` never adds BOS or EOS; ask `adds_bos` and put `bos` in front where a text is used raw.
/// Ids are those of Hugging Face's `tokenizers` for a tokenizer.json, and of `sentencepiece` for a
/// tokenizer.model.
class Tokenizer {
 public:
  /// Reads the tokenizer of a Hugging Face directory: tokenizer.json with what
  /// tokenizer_config.json adds to it, else tokenizer.model. Gives nullptr when the directory has
  /// neither. Throws Error naming file and field.
  static std::unique_ptr<Tokenizer> from_directory(const std::filesystem::path& directory);

  /// Builds the tokenizer of a GGUF file; `name` is the file's, for messages. Throws Error naming
  /// the key at fault.
  static std::unique_ptr<Tokenizer> from_gguf(const GgufVocab& vocab, const std::string& name);

  /// What a tokenizer is made of; the loaders in this folder fill it.
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// The ids of `text`. Bytes that are not UTF-8 count as U+FFFD. Time O(n log n), memory O(n).
  std::vector<int> encode(std::string_view text, EncodeOptions options = {}) const;

  /// `text` as a part of a text for encode() with `parse_special`, which then takes no special
  /// token from it: behind the first character of each that it spells stands U+FDD0, which Unicode
  /// keeps out of texts and `encode` drops. One that is in `text` already becomes U+FFFD.
  std::string quote(std::string_view text) const;

  /// The text of `ids`; ids out of range are skipped, invalid bytes become U+FFFD, `skip_special`
  /// leaves out special tokens. For a reply that grows token by token use Detokenizer.
  std::string decode(std::span<const int> ids, bool skip_special) const;

  /// The bytes that `id` adds to a text that has begun, or, `first`, to one that it begins, as a
  /// Detokenizer gives them; they may be a part of a character. Nothing for special tokens. Throws
  /// Error where what a token adds depends on its neighbours.
  std::string bytes_of(int id, bool first) const;

  /// One more than the largest id, added tokens included.
  int size() const;

  /// Beginning and end of a text, where the model has them; `eos` is also the token that ends a
  /// reply.
  std::optional<int> bos() const;
  std::optional<int> eos() const;
  std::optional<int> unk() const;
  std::optional<int> pad() const;

  /// True when the model expects BOS (EOS) around a raw text. A chat template writes its own.
  bool adds_bos() const;
  bool adds_eos() const;

  /// The token as the vocabulary writes it (byte-level letters, "▁" for a space); empty for an id
  /// that is not in use.
  std::string_view piece(int id) const;

  /// The id of a token as the vocabulary writes it.
  std::optional<int> id_of(std::string_view piece) const;

  /// True for control tokens: never part of a text that a user sees.
  bool is_special(int id) const;

 private:
  friend class Detokenizer;
  std::unique_ptr<const Impl> impl_;
};

/// Turns ids into text one at a time and never gives half a character: bytes wait until their
/// character is whole, and bytes that cannot become one are given as U+FFFD. All it gives, put
/// together, is what Tokenizer::decode gives. One thread at a time. The tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);
  ~Detokenizer();
  Detokenizer(Detokenizer&&) noexcept;
  Detokenizer& operator=(Detokenizer&&) noexcept;

  /// The characters that `id` completes; often one token's text, sometimes none.
  std::string push(int id);

  /// What is still waiting, as U+FFFD where it is not a character; then ready for another text.
  std::string flush();

 private:
  friend class Tokenizer;  // whose bytes_of() is a step of it
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sala
