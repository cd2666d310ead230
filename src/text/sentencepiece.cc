#include "text/sentencepiece.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "text/unicode.h"

namespace sala {
namespace {

// Longer pieces exist only as whole tokens (user-defined); the work to find their parts would grow
// with the square.
constexpr size_t kMaxMergedBytes = 512;

bool is_mergeable(int type) {
  return type == SentencePieceModel::kNormal || type == SentencePieceModel::kUserDefined ||
         type == SentencePieceModel::kUnused;
}

/// Numbers for what merging starts from: pieces have their ids, characters that occur only inside
/// pieces follow.
class Symbols {
 public:
  Symbols(const SentencePieceModel& model, Bpe::Options& options) : options_(options) {
    for (size_t id = 0; id < model.pieces.size(); ++id)
      if (is_mergeable(model.pieces[id].type))
        ids_.try_emplace(model.pieces[id].text, static_cast<int>(id));
    options_.shadow_first = static_cast<int>(model.pieces.size());
  }

  /// The number of a piece or of a single character; -1 for anything else.
  int find(std::string_view text) {
    if (const auto it = ids_.find(text); it != ids_.end()) return it->second;
    const Utf8Char c = decode_utf8(text.substr(0, 4));
    if (c.length == 0 || static_cast<size_t>(c.length) != text.size()) return -1;
    const int id = options_.shadow_first + static_cast<int>(options_.shadows.size());
    options_.shadows.emplace_back(text);
    ids_.emplace(options_.shadows.back(), id);
    return id;
  }

 private:
  Bpe::Options& options_;
  std::map<std::string, int, std::less<>> ids_;
};

/// Every way to make a piece of two parts is a rule; better scores go first, equal ones from the
/// left.
std::vector<BpeMerge> make_merges(const SentencePieceModel& model, Symbols& symbols) {
  std::vector<float> scores;
  for (const auto& piece : model.pieces)
    if (is_mergeable(piece.type)) scores.push_back(piece.score);
  std::ranges::sort(scores, std::greater<>());
  scores.erase(std::ranges::unique(scores).begin(), scores.end());
  std::vector<BpeMerge> merges;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, type] = model.pieces[id];
    if (!is_mergeable(type) || text.size() > kMaxMergedBytes ||
        symbols.find(text) != static_cast<int>(id))
      continue;
    const auto rank = std::ranges::lower_bound(scores, score, std::greater<>()) - scores.begin();
    for (size_t at = 0;;) {
      at += static_cast<size_t>(decode_valid_utf8(text, at).length);
      if (at >= text.size()) break;
      const int left = symbols.find(std::string_view(text).substr(0, at));
      const int right = symbols.find(std::string_view(text).substr(at));
      if (left >= 0 && right >= 0)
        merges.push_back({left, right, static_cast<int>(rank), static_cast<int>(id)});
    }
  }
  return merges;
}

void check_pieces(const SentencePieceModel& model, const std::string& name) {
  for (const auto& piece : model.pieces) {
    if (find_invalid_utf8(piece.text) != piece.text.size())
      fail("{}: a piece is not UTF-8; the file is damaged", name);
    if (piece.text.empty()) fail("{}: a piece is empty; the file is damaged", name);
  }
}

std::optional<int> piece_id(int id, const SentencePieceModel& model) {
  return id >= 0 && static_cast<size_t>(id) < model.pieces.size() ? std::optional(id)
                                                                  : std::nullopt;
}

}  // namespace

void use_sentencepiece(Tokenizer::Impl& impl, const SentencePieceModel& model) {
  if (model.algorithm != 2)
    fail(
        "{}: the model's algorithm is number {} (1 is unigram), expected 2, BPE; only BPE is "
        "supported",
        impl.name, model.algorithm);
  check_pieces(model, impl.name);
  const auto untouched = std::make_shared<Trie>();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    impl.vocab.add(piece.text, static_cast<int>(id));
    if (piece.type == SentencePieceModel::kUserDefined)
      untouched->add(piece.text, static_cast<int>(id));
  }
  Bpe::Options options;
  options.byte_fallback = model.byte_fallback;
  options.fuse_unknown = true;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    const bool special = piece.type == SentencePieceModel::kControl;
    if (piece.type == SentencePieceModel::kUnknown) options.unknown = static_cast<int>(id);
    if (special || piece.type == SentencePieceModel::kUserDefined)
      impl.added.add({.content = piece.text, .special = special, .normalized = !special},
                     static_cast<int>(id), {});
    // Reserved pieces are no characters that a text can contain.
    if (!is_mergeable(piece.type)) options.reserved.push_back(static_cast<int>(id));
  }
  Symbols symbols(model, options);
  const auto merges = make_merges(model, symbols);
  impl.normalizer.add(sentencepiece_normalizer(model, untouched, impl.name));
  impl.repairs = false;
  impl.model = std::make_unique<Bpe>(impl.vocab, merges, options);
  impl.decoder = Decoder::sentencepiece(
      {.unknown =
           options.unknown < 0 ? "" : model.pieces[static_cast<size_t>(options.unknown)].text,
       .unknown_surface = model.unk_surface,
       .strips_first_mark = model.add_dummy_prefix || model.remove_extra_whitespaces,
       .strips_all_marks = model.remove_extra_whitespaces});
  impl.unk = piece_id(model.unk, model);
  impl.bos = piece_id(model.bos, model);
  impl.eos = piece_id(model.eos, model);
  impl.pad = piece_id(model.pad, model);
  impl.adds_bos = impl.bos.has_value();
}

}  // namespace sala
