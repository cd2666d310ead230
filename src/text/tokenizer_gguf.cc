#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "text/pre_patterns.h"
#include "text/sentencepiece.h"
#include "text/tokenizer_impl.h"

namespace sala {
namespace {

void check_vocab(const GgufVocab& vocab, const std::string& name) {
  const size_t count = vocab.tokens.size();
  if (count == 0)
    fail("{}: tokenizer.ggml.tokens is empty or missing; the file has no tokenizer", name);
  if (count > static_cast<size_t>(Vocab::kMaxId))
    fail("{}: tokenizer.ggml.tokens has {} entries, expected at most {}; the file is damaged", name,
         count, Vocab::kMaxId);
  const auto check_size = [&](const char* key, size_t size) {
    if (size != 0 && size != count)
      fail(
          "{}: tokenizer.ggml.{} has {} entries, expected {} as tokenizer.ggml.tokens has; the "
          "file is damaged",
          name, key, size, count);
  };
  check_size("token_type", vocab.types.size());
  check_size("scores", vocab.scores.size());
  for (const std::string& token : vocab.tokens)
    if (find_invalid_utf8(token) != token.size())
      fail("{}: tokenizer.ggml.tokens has an entry that is not UTF-8; the file is damaged", name);
}

std::optional<int> checked_id(int id, const char* key, const GgufVocab& vocab,
                              const std::string& name) {
  if (id < 0) return std::nullopt;
  if (static_cast<size_t>(id) >= vocab.tokens.size())
    fail("{}: tokenizer.ggml.{}_token_id is {}, but there are {} tokens; the file is damaged", name,
         key, id, vocab.tokens.size());
  return id;
}

std::vector<BpeMerge> read_merges(const Vocab& vocab, const std::vector<std::string>& lines,
                                  const std::string& name) {
  std::vector<BpeMerge> merges;
  merges.reserve(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    // The left part may be a space itself in vocabularies that are not byte-level: look from the
    // second character.
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos)
      fail(
          "{}: tokenizer.ggml.merges entry {} is '{}', expected \"left right\"; the file is "
          "damaged",
          name, i, line);
    const std::string left = line.substr(0, space);
    const std::string right = line.substr(space + 1);
    const int result = vocab.find(left + right);
    if (vocab.find(left) < 0 || vocab.find(right) < 0 || result < 0)
      fail(
          "{}: tokenizer.ggml.merges entry {} is '{}', but tokenizer.ggml.tokens lacks a part or "
          "the whole; the file "
          "is damaged",
          name, i, line);
    merges.push_back({vocab.find(left), vocab.find(right), static_cast<int>(i), result});
  }
  return merges;
}

void make_byte_level(Tokenizer::Impl& impl, const GgufVocab& vocab) {
  for (size_t id = 0; id < vocab.tokens.size(); ++id)
    impl.vocab.add(vocab.tokens[id], static_cast<int>(id));
  const std::string where = impl.name + ": tokenizer.ggml";
  const PrePatterns pre = pre_patterns(vocab.pre.empty() ? "gpt-2" : vocab.pre, impl.name);
  if (pre.nfc)
    impl.normalizer.add(
        [](std::string_view text) { return normalize_utf8(text, NormalForm::kNfc); });
  impl.pre_tokenizer = PreTokenizer::from_patterns(pre.patterns, where);
  impl.decoder = Decoder::from_json(Json{{"type", "ByteLevel"}}, where);
  Bpe::Options options;
  options.alphabet = Bpe::Alphabet::kBytes;
  options.ignore_merges = pre.ignore_merges;
  impl.model =
      std::make_unique<Bpe>(impl.vocab, read_merges(impl.vocab, vocab.merges, impl.name), options);
  impl.adds_bos = vocab.add_bos.value_or(pre.adds_bos);
  impl.adds_eos = vocab.add_eos.value_or(false);
  for (size_t id = 0; id < vocab.types.size(); ++id) {
    const int type = vocab.types[id];
    if (type != SentencePieceModel::kUnknown && type != SentencePieceModel::kControl &&
        type != SentencePieceModel::kUserDefined)
      continue;
    const bool special = type != SentencePieceModel::kUserDefined;
    impl.added.add({.content = vocab.tokens[id], .special = special}, static_cast<int>(id), {});
  }
}

SentencePieceModel sentencepiece_model(const GgufVocab& vocab, const std::string& name) {
  if (vocab.scores.empty())
    fail(
        "{}: tokenizer.ggml.scores is missing, which a 'llama' vocabulary needs; convert the model "
        "again",
        name);
  SentencePieceModel model;
  model.algorithm = 2;
  model.remove_extra_whitespaces = false;
  model.add_dummy_prefix = vocab.add_space_prefix;
  for (size_t id = 0; id < vocab.tokens.size(); ++id) {
    const int type = vocab.types.empty() ? SentencePieceModel::kNormal : vocab.types[id];
    model.pieces.push_back({vocab.tokens[id], vocab.scores[id], type});
    if (type == SentencePieceModel::kByte) model.byte_fallback = true;
  }
  return model;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufVocab& vocab, const std::string& name) {
  check_vocab(vocab, name);
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  if (vocab.model == "llama") {
    use_sentencepiece(*impl, sentencepiece_model(vocab, name));
    impl->adds_bos = vocab.add_bos.value_or(true);
    impl->adds_eos = vocab.add_eos.value_or(false);
  } else if (vocab.model == "gpt2") {
    make_byte_level(*impl, vocab);
  } else {
    fail("{}: tokenizer.ggml.model is '{}', expected gpt2 or llama; this kind is not supported",
         name, vocab.model);
  }
  impl->bos = checked_id(vocab.bos, "bos", vocab, name);
  impl->eos = checked_id(vocab.eos, "eos", vocab, name);
  impl->unk = checked_id(vocab.unk, "unknown", vocab, name);
  impl->pad = checked_id(vocab.pad, "padding", vocab, name);
  return std::make_unique<Tokenizer>(std::move(impl));
}

}  // namespace sala
