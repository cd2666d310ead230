#include "text/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer_impl.h"

namespace sala {
namespace {

std::string without(std::string_view text, std::string_view word) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t found = std::min(text.find(word, at), text.size());
    out += text.substr(at, found - at);
    at = found + word.size();
  }
  return out;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::from_directory(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / "tokenizer.json")) return read_tokenizer_json(directory);
  if (std::filesystem::exists(directory / "tokenizer.model"))
    return read_tokenizer_model(directory);
  return nullptr;
}

void Tokenizer::Impl::add_token(const AddedToken& token) {
  int id = added.id_of(token.content);
  if (id < 0) id = vocab.find(token.content);
  if (id < 0) id = std::max(added.largest_id() + 1, vocab.count());
  if (id > Vocab::kMaxId)
    fail("{}: added token '{}' gets id {}, expected at most {}; the file is damaged", name,
         token.content, id, Vocab::kMaxId);
  added.add(token, id, normalizer);
}

std::string Tokenizer::quote(std::string_view text) const {
  const AddedTokens& added = impl_->added;
  const auto quoted = [&](bool everywhere) {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const int length = std::max(1, decode_utf8(text.substr(at)).length);
      const std::string_view character = text.substr(at, static_cast<size_t>(length));
      out += character == AddedTokens::kQuote ? kReplacement : character;
      if (everywhere || added.spells_special(text, at)) out += AddedTokens::kQuote;
      at += character.size();
    }
    return out;
  };
  std::string out = quoted(false);
  if (!added.has(true) || impl_->normalizer.empty()) return out;
  // A normaliser may write a token where the text has none.
  const std::string normal =
      impl_->normalizer.apply(impl_->repairs ? repair_utf8(out, Repair::kMaximalSubpart) : out);
  for (const auto& piece : added.split(normal, true, true))
    if (added.is_special(piece.id)) return quoted(true);
  return out;
}

std::vector<int> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::string repaired;
  if (impl_->repairs && find_invalid_utf8(text) < text.size()) {
    repaired = repair_utf8(text, Repair::kMaximalSubpart);
    text = repaired;
  }
  std::vector<int> ids;
  ids.reserve(text.size() / 4 + 8);
  WordCache cache(text.size());
  const PreTokenizer::Sink sink = [&](std::string_view word, bool) {
    impl_->model->encode(word, cache, ids);
  };
  const auto encode_ordinary = [&](std::string_view part, bool at_start) {
    std::string unquoted;
    if (options.parse_special && part.find(AddedTokens::kQuote) != std::string_view::npos) {
      unquoted = without(part, AddedTokens::kQuote);
      part = unquoted;
    }
    impl_->pre_tokenizer.apply(part, at_start, sink);
  };
  const auto encode_normalized = [&](std::string_view part, bool at_start) {
    if (!impl_->added.has(true)) return encode_ordinary(part, at_start);
    for (const auto& piece : impl_->added.split(part, true, options.parse_special)) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
      } else {
        encode_ordinary(piece.text, at_start && piece.text.data() == part.data());
      }
    }
  };
  for (const auto& part : impl_->added.split(text, false, options.parse_special)) {
    const bool at_start = part.text.data() == text.data();
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else if (impl_->normalizer.empty()) {
      encode_normalized(part.text, at_start);
    } else {
      encode_normalized(impl_->normalizer.apply(part.text), at_start);
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int> ids, bool skip_special) const {
  Decoder::Pieces pieces;
  pieces.reserve(ids.size());
  for (const int id : ids) {
    if (!impl_->has(id)) continue;
    const std::string_view piece = impl_->decoder_piece(id);
    if (skip_special && impl_->added.is_special_piece(piece)) continue;
    pieces.emplace_back(piece);
  }
  return impl_->decoder.decode(std::move(pieces));
}

int Tokenizer::size() const { return std::max(impl_->vocab.size(), impl_->added.largest_id() + 1); }
std::optional<int> Tokenizer::bos() const { return impl_->bos; }
std::optional<int> Tokenizer::eos() const { return impl_->eos; }
std::optional<int> Tokenizer::unk() const { return impl_->unk; }
std::optional<int> Tokenizer::pad() const { return impl_->pad; }
bool Tokenizer::adds_bos() const { return impl_->adds_bos && impl_->bos.has_value(); }
bool Tokenizer::adds_eos() const { return impl_->adds_eos && impl_->eos.has_value(); }

std::string_view Tokenizer::piece(int id) const {
  const AddedToken* token = impl_->added.find(id);
  return token != nullptr ? std::string_view(token->content) : impl_->vocab.piece(id);
}

std::optional<int> Tokenizer::id_of(std::string_view piece) const {
  int id = impl_->added.id_of(piece);
  if (id < 0) id = impl_->vocab.find(piece);
  return id < 0 ? std::nullopt : std::optional(id);
}

bool Tokenizer::is_special(int id) const { return impl_->added.is_special(id); }

}  // namespace sala
