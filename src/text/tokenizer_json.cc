#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "text/json_fields.h"
#include "text/sentencepiece.h"
#include "text/tokenizer_impl.h"

namespace sala {
namespace {

constexpr size_t kMaxMerges = 1 << 24;

AddedToken read_added_token(const Json& json, const std::string& where) {
  AddedToken token;
  token.content = string_field(json, "content", where);
  token.special = bool_field(json, "special", false, where);
  token.normalized = bool_field(json, "normalized", !token.special, where);
  token.single_word = bool_field(json, "single_word", false, where);
  token.lstrip = bool_field(json, "lstrip", false, where);
  token.rstrip = bool_field(json, "rstrip", false, where);
  return token;
}

/// A text that is a string itself or the "content" of an object; absent when null.
std::optional<std::string> token_text(const Json& json, const char* key, const std::string& where) {
  const Json& value = field(json, key, where);
  if (value.is_null()) return std::nullopt;
  return value.is_object() ? string_field(value, "content", where) : string_field(json, key, where);
}

/// "a b" or ["a", "b"].
std::pair<std::string, std::string> read_merge(const Json& merge, size_t index,
                                               const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const std::string text = merge.get<std::string>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  fail("{}: merge {} is {}, expected \"left right\" or [\"left\", \"right\"]; the file is damaged",
       where, index, merge.dump(-1, ' ', true, Json::error_handler_t::replace));
}

void read_vocab(Vocab& vocab, const Json& model, const std::string& where) {
  const Json& pieces = field(model, "vocab", where);
  if (!pieces.is_object()) fail("{}: 'vocab' is {}, expected an object", where, pieces.type_name());
  for (const auto& [piece, id] : pieces.items()) {
    if (!id.is_number_integer() || id < 0 || id > Vocab::kMaxId)
      fail("{}: the id of token '{}' is {}, expected 0 to {}; the file is damaged", where, piece,
           id.dump(), Vocab::kMaxId);
    vocab.add(piece, id.get<int>());
  }
}

std::vector<BpeMerge> read_merges(const Vocab& vocab, const Json& model, const std::string& prefix,
                                  const std::string& where) {
  const Json& lines = array_field(model, "merges", where);
  if (lines.size() > kMaxMerges)
    fail("{}: {} merges, more than the {} that are accepted; the file is damaged", where,
         lines.size(), kMaxMerges);
  std::vector<BpeMerge> merges;
  merges.reserve(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto [left, right] = read_merge(lines[i], i, where);
    const std::string result = left + right.substr(std::min(prefix.size(), right.size()));
    for (const std::string& piece : {left, right, result})
      if (vocab.find(piece) < 0)
        fail("{}: merge {} ('{}' '{}') needs token '{}', which 'vocab' lacks; the file is damaged",
             where, i, left, right, piece);
    merges.push_back(
        {vocab.find(left), vocab.find(right), static_cast<int>(i), vocab.find(result)});
  }
  return merges;
}

/// Reads what surrounds a raw text: special tokens of "post_processor" before and after it.
void read_post_processor(const Json& json, const std::string& where,
                         std::vector<std::string>& before, std::vector<std::string>& after) {
  if (json.is_null()) return;
  const std::string type = string_field(json, "type", where);
  if (type == "Sequence") {
    for (const Json& part : array_field(json, "processors", where))
      read_post_processor(part, where, before, after);
  } else if (type == "TemplateProcessing") {
    bool seen = false;
    for (const Json& part : array_field(json, "single", where)) {
      if (part.is_object() && part.contains("Sequence")) {
        seen = true;
      } else {
        (seen ? after : before)
            .push_back(string_field(field(part, "SpecialToken", where), "id", where));
      }
    }
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    const auto first = [&](const char* key) {
      const Json& pair = array_field(json, key, where);
      return pair.empty() || !pair[0].is_string() ? std::string() : pair[0].get<std::string>();
    };
    before.push_back(first("cls"));
    after.push_back(first("sep"));
  } else if (type != "ByteLevel") {
    fail(
        "{}: post-processor '{}' is not supported; supported are Sequence, TemplateProcessing, "
        "RobertaProcessing, "
        "BertProcessing and ByteLevel",
        where, type);
  }
}

std::optional<int> id_of(const Tokenizer::Impl& impl, const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  int id = impl.added.id_of(*text);
  if (id < 0) id = impl.vocab.find(*text);
  return id < 0 ? std::nullopt : std::optional(id);
}

void read_model(Tokenizer::Impl& impl, const Json& root) {
  const std::string where = impl.name + ": model";
  const Json& model = field(root, "model", impl.name);
  const Json& type = field(model, "type", where);
  if (!type.is_null() && type != "BPE")
    fail("{}: 'type' is {}, expected \"BPE\"; only byte-pair encoding is supported", where,
         type.dump());
  read_vocab(impl.vocab, model, where);
  Bpe::Options options;
  if (const auto prefix = token_text(model, "continuing_subword_prefix", where))
    options.prefix = *prefix;
  if (const auto suffix = token_text(model, "end_of_word_suffix", where)) options.suffix = *suffix;
  if (const auto unknown = token_text(model, "unk_token", where)) {
    options.unknown = impl.vocab.find(*unknown);
    if (options.unknown >= 0) impl.unk = options.unknown;
  }
  options.fuse_unknown = bool_field(model, "fuse_unk", false, where);
  options.byte_fallback = bool_field(model, "byte_fallback", false, where);
  options.ignore_merges = bool_field(model, "ignore_merges", false, where);
  const bool spelled = !options.prefix.empty() || !options.suffix.empty() || options.byte_fallback;
  const Json& pre = field(root, "pre_tokenizer", impl.name);
  const bool raw_bytes = !spelled && PreTokenizer::ends_in_bytes(pre);
  if (raw_bytes) options.alphabet = Bpe::Alphabet::kBytes;
  impl.pre_tokenizer = PreTokenizer::from_json(pre, impl.name + ": pre_tokenizer", raw_bytes);
  impl.model = std::make_unique<Bpe>(
      impl.vocab, read_merges(impl.vocab, model, options.prefix, where), options);
}

void read_root(Tokenizer::Impl& impl, const Json& root) {
  impl.normalizer =
      Normalizer::from_json(field(root, "normalizer", impl.name), impl.name + ": normalizer");
  read_model(impl, root);
  impl.decoder = Decoder::from_json(field(root, "decoder", impl.name), impl.name + ": decoder");
  for (const Json& token : array_field(root, "added_tokens", impl.name))
    impl.add_token(read_added_token(token, impl.name + ": added_tokens"));
  std::vector<std::string> before;
  std::vector<std::string> after;
  read_post_processor(field(root, "post_processor", impl.name), impl.name + ": post_processor",
                      before, after);
  if (!before.empty()) impl.bos = id_of(impl, before.front());
  if (!after.empty()) impl.eos = id_of(impl, after.back());
  impl.adds_bos = impl.bos.has_value();
  impl.adds_eos = impl.eos.has_value();
}

/// What transformers adds: tokens of "added_tokens_decoder" and the named special tokens, where
/// they are missing.
void read_config(Tokenizer::Impl& impl, const Json& config, const std::string& name) {
  std::vector<std::pair<int, AddedToken>> tokens;
  const Json& decoder = field(config, "added_tokens_decoder", name);
  if (decoder.is_object()) {
    for (const auto& [id, token] : decoder.items()) {
      if (id.empty() || id.size() > 8 ||
          !std::ranges::all_of(id, [](char c) { return c >= '0' && c <= '9'; }))
        fail(
            "{}: 'added_tokens_decoder' has the key '{}', expected a token id; the file is damaged",
            name, id);
      tokens.emplace_back(std::stoi(id), read_added_token(token, name + ": added_tokens_decoder"));
    }
  }
  std::ranges::sort(tokens, {}, [](const auto& token) { return token.first; });
  for (const auto& [id, token] : tokens)
    if (impl.added.id_of(token.content) < 0) impl.add_token(token);
  const auto named = [&](const char* key, std::optional<int>& slot) {
    const auto text = token_text(config, key, name);
    if (!text || text->empty()) return;
    if (impl.added.id_of(*text) < 0) impl.add_token({.content = *text, .special = true});
    slot = id_of(impl, text);
  };
  named("bos_token", impl.bos);
  named("eos_token", impl.eos);
  named("unk_token", impl.unk);
  named("pad_token", impl.pad);
  impl.adds_bos = bool_field(config, "add_bos_token", impl.adds_bos, name);
  impl.adds_eos = bool_field(config, "add_eos_token", impl.adds_eos, name);
}

void read_configs(Tokenizer::Impl& impl, const std::filesystem::path& directory) {
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"})
    if (const auto path = directory / name; std::filesystem::exists(path))
      read_config(impl, read_json(path), path.string());
}

}  // namespace

std::unique_ptr<Tokenizer> read_tokenizer_json(const std::filesystem::path& directory) {
  auto impl = std::make_unique<Tokenizer::Impl>();
  impl->name = (directory / "tokenizer.json").string();
  read_root(*impl, read_json(impl->name));
  read_configs(*impl, directory);
  return std::make_unique<Tokenizer>(std::move(impl));
}

std::unique_ptr<Tokenizer> read_tokenizer_model(const std::filesystem::path& directory) {
  auto impl = std::make_unique<Tokenizer::Impl>();
  impl->name = (directory / "tokenizer.model").string();
  const auto file = MappedFile::open(impl->name);
  use_sentencepiece(*impl, read_sentencepiece(file->bytes(), impl->name));
  read_configs(*impl, directory);
  return std::make_unique<Tokenizer>(std::move(impl));
}

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name) {
  auto impl = std::make_unique<Tokenizer::Impl>();
  impl->name = name;
  read_root(*impl, parse_json(text, name));
  return std::make_unique<Tokenizer>(std::move(impl));
}

std::unique_ptr<Tokenizer> parse_tokenizer_model(std::span<const std::byte> bytes,
                                                 const std::string& name) {
  auto impl = std::make_unique<Tokenizer::Impl>();
  impl->name = name;
  use_sentencepiece(*impl, read_sentencepiece(bytes, name));
  return std::make_unique<Tokenizer>(std::move(impl));
}

}  // namespace sala
