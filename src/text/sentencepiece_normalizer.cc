#include <array>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "text/sentencepiece.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr std::string_view kMark = "\xE2\x96\x81";  // ▁

/// The compiled rules of a normaliser: a double array (Darts) from texts to places in a table of
/// replacements.
class Charsmap {
 public:
  Charsmap(const std::string& blob, const std::string& name) {
    if (blob.empty()) return;
    uint32_t size = 0;
    if (blob.size() < 4)
      fail("{}: the normaliser's rules have {} bytes, expected 4 or more", name, blob.size());
    std::memcpy(&size, blob.data(), 4);
    if (size > blob.size() - 4 || size % 4 != 0)
      fail("{}: the normaliser's rules announce a table of {} bytes in {}; the file is damaged",
           name, size, blob.size());
    units_.resize(size / 4);
    std::memcpy(units_.data(), blob.data() + 4, size);
    replacements_ = blob.substr(4 + size);
    if (find_invalid_utf8(replacements_) != replacements_.size())
      fail("{}: the normaliser's replacements are not UTF-8; the file is damaged", name);
  }

  /// Length of the longest rule that `text` begins with (0: none) and its replacement.
  size_t longest(std::string_view text, std::string_view& replacement) const {
    size_t best = 0;
    if (units_.empty()) return 0;
    size_t at = offset(units_[0]);
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      at ^= byte;
      if (at >= units_.size() || (units_[at] & 0x800000FFU) != byte) break;
      const uint32_t unit = units_[at];
      at ^= offset(unit);
      if (at >= units_.size()) break;
      if ((unit >> 8 & 1) == 0) continue;
      const size_t where = units_[at] & 0x7FFFFFFFU;
      if (where >= replacements_.size()) continue;
      best = i + 1;
      const std::string_view rest = std::string_view(replacements_).substr(where);
      replacement = rest.substr(0, rest.find('\0'));
    }
    return best;
  }

 private:
  static size_t offset(uint32_t unit) {
    return static_cast<size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6);
  }
  std::vector<uint32_t> units_;
  std::string replacements_;
};

class SentencePieceNormalizer {
 public:
  SentencePieceNormalizer(const SentencePieceModel& model, std::shared_ptr<const Trie> untouched,
                          const std::string& name)
      : charsmap_(model.charsmap, name),
        untouched_(std::move(untouched)),
        space_(model.escape_whitespaces ? kMark : " "),
        prefix_(model.add_dummy_prefix && !model.space_as_suffix),
        suffix_(model.add_dummy_prefix && model.space_as_suffix),
        trims_(model.remove_extra_whitespaces) {}

  std::string apply(std::string_view text) const {
    std::string out;
    while (trims_ && !text.empty()) {
      const Step step = first(text);
      if (step.text != " ") break;
      text.remove_prefix(step.taken);
    }
    if (text.empty()) return out;
    out.reserve(text.size() + text.size() / 2);
    if (prefix_) out.append(space_);
    bool after_space = trims_;
    while (!text.empty()) {
      Step step = first(text);
      while (after_space && step.text.starts_with(' ')) step.text.remove_prefix(1);
      if (!step.text.empty()) {
        for (const char c : step.text) c == ' ' ? void(out.append(space_)) : out.push_back(c);
        after_space = trims_ && step.text.ends_with(' ');
      }
      text.remove_prefix(step.taken);
    }
    while (trims_ && out.ends_with(space_)) out.resize(out.size() - space_.size());
    if (suffix_) out.append(space_);
    return out;
  }

 private:
  struct Step {
    std::string_view text;
    size_t taken = 0;
  };

  /// What the beginning of `text` becomes, and how much of it that is.
  Step first(std::string_view text) const {
    if (const auto match = untouched_->find_at(text, 0); match.value >= 0)
      return {text.substr(0, match.end), match.end};
    std::string_view replacement;
    if (const size_t taken = charsmap_.longest(text, replacement); taken > 0)
      return {replacement, taken};
    const Utf8Char c = decode_utf8(text.substr(0, 4));
    if (c.length == 0) return {kReplacement, 1};
    return {text.substr(0, static_cast<size_t>(c.length)), static_cast<size_t>(c.length)};
  }

  Charsmap charsmap_;
  std::shared_ptr<const Trie> untouched_;
  std::string space_;
  bool prefix_;
  bool suffix_;
  bool trims_;
};

}  // namespace

Normalizer::Step sentencepiece_normalizer(const SentencePieceModel& model,
                                          std::shared_ptr<const Trie> untouched,
                                          const std::string& name) {
  const auto normalizer =
      std::make_shared<const SentencePieceNormalizer>(model, std::move(untouched), name);
  return [normalizer](std::string_view text) { return normalizer->apply(text); };
}

}  // namespace sala
