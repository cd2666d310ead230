#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/tokenizer_impl.h"

namespace sala {

struct Detokenizer::State {
  const Tokenizer& tokenizer;
  bool skip_special;
  bool first = true;      // no piece has been seen
  size_t stripped = 0;    // characters left out at the beginning so far
  bool stripping = true;  // nothing has been given yet
  std::string bytes{};    // the start of a character

  // Where what a piece becomes depends on its neighbours: the last ids, the text that is known of
  // the first `given_ids` of them.
  std::vector<int> window{};
  size_t given_ids = 0;
  std::string given{};

  bool marks = true;  // a leading mark is still left out

  /// The bytes that `id` adds; `raw`: they may be parts of characters.
  std::string surface(int id, bool& raw);
  void strip_mark(std::string& piece, bool all);
  std::string push_bytes(std::string_view more, bool final);
  std::string push_window(int id);
  std::string strip(std::string text);
};

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : state_(new State{.tokenizer = tokenizer, .skip_special = skip_special}) {}
Detokenizer::~Detokenizer() = default;
Detokenizer::Detokenizer(Detokenizer&&) noexcept = default;
Detokenizer& Detokenizer::operator=(Detokenizer&&) noexcept = default;

/// Takes raw bytes and gives the whole characters; `final` gives up on the rest.
std::string Detokenizer::State::push_bytes(std::string_view more, bool final) {
  bytes.append(more);
  const Repair repair = tokenizer.impl_->decoder.streaming().byte_letters ? Repair::kMaximalSubpart
                                                                          : Repair::kEachByte;
  size_t keep = 0;
  // At most three bytes can be the start of a longer character.
  for (size_t back = 1; !final && back <= std::min<size_t>(3, bytes.size()); ++back)
    if (incomplete_utf8(std::string_view(bytes).substr(bytes.size() - back)) > 0) keep = back;
  const std::string rest = bytes.substr(bytes.size() - keep);
  bytes.resize(bytes.size() - keep);
  return repair_utf8(std::exchange(bytes, rest), repair);
}

void Detokenizer::State::strip_mark(std::string& piece, bool all) {
  static constexpr std::string_view kMark = "\xE2\x96\x81";
  const bool marked = piece.starts_with(kMark) && byte_of_token(piece) < 0;
  if (marked) piece.erase(0, kMark.size());
  if (!piece.empty() || (marked && !all)) marks = false;
}

std::string Detokenizer::State::strip(std::string text) {
  const Decoder::Streaming& rule = tokenizer.impl_->decoder.streaming();
  size_t cut = 0;
  while (stripping && cut < text.size()) {
    const Utf8Char c = decode_utf8(std::string_view(text).substr(cut, 4));
    if (stripped == rule.strip || c.code != rule.stripped) {
      stripping = false;
    } else {
      ++stripped;
      cut += static_cast<size_t>(c.length);
    }
  }
  text.erase(0, cut);
  return text;
}

/// Decodes the last few ids with and without the new one; the difference is new text.
std::string Detokenizer::State::push_window(int id) {
  window.push_back(id);
  std::string text = tokenizer.decode(window, skip_special);
  if (text.size() <= given.size() || text.ends_with(kReplacement) || !text.starts_with(given))
    return "";
  std::string fresh = text.substr(given.size());
  window.erase(window.begin(), window.begin() + static_cast<std::ptrdiff_t>(given_ids));
  given_ids = window.size();
  given = tokenizer.decode(window, skip_special);
  return fresh;
}

std::string Detokenizer::State::surface(int id, bool& raw) {
  const Tokenizer::Impl& impl = *tokenizer.impl_;
  const Decoder::Streaming& rule = impl.decoder.streaming();
  std::string text(impl.decoder_piece(id));
  if (rule.first_mark && marks) strip_mark(text, rule.all_marks);
  for (const Decoder::Rewrite& rewrite : rule.rewrites) text = rewrite(text, first);
  first = false;
  const int byte = rule.byte_tokens && !rule.byte_letters ? byte_of_token(text) : -1;
  raw = rule.byte_letters || byte >= 0;
  if (byte >= 0) return {static_cast<char>(byte)};
  return rule.byte_letters ? bytes_of_letters(text) : text;
}

std::string Detokenizer::push(int id) {
  State& s = *state_;
  const Tokenizer::Impl& impl = *s.tokenizer.impl_;
  if (!impl.has(id)) return "";
  if (s.skip_special && impl.added.is_special_piece(impl.decoder_piece(id))) return "";
  if (!impl.decoder.streaming().possible) return s.push_window(id);
  bool raw = false;
  const std::string text = s.surface(id, raw);
  return s.strip(raw ? s.push_bytes(text, false) : s.push_bytes("", true) + text);
}

std::string Tokenizer::bytes_of(int id, bool first) const {
  if (!impl_->has(id) || impl_->added.is_special_piece(impl_->decoder_piece(id))) return "";
  if (!impl_->decoder.streaming().possible)
    fail(
        "{}: what a token adds to a text depends on its neighbours, so replies cannot be "
        "constrained",
        impl_->name);
  Detokenizer::State state{
      .tokenizer = *this, .skip_special = true, .first = first, .stripping = first, .marks = first};
  bool raw = false;
  return state.strip(state.surface(id, raw));
}

std::string Detokenizer::flush() {
  State& s = *state_;
  std::string rest;
  if (!s.window.empty()) {
    const std::string text = s.tokenizer.decode(s.window, s.skip_special);
    if (text.starts_with(s.given)) rest = text.substr(s.given.size());
  } else {
    rest = s.strip(s.push_bytes("", true));
  }
  *this = Detokenizer(s.tokenizer, s.skip_special);
  return rest;
}

}  // namespace sala
