#include "text/normalizer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "text/byte_alphabet.h"
#include "text/json_fields.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace sala {
namespace {

/// A step that rewrites each character by itself.
template <class Rewrite>
Normalizer::Step each_character(Rewrite rewrite) {
  return [rewrite](std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_valid_utf8(text, at);
      rewrite(out, c.code);
      at += static_cast<size_t>(c.length);
    }
    return out;
  };
}

std::string strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const Utf8Char c = decode_valid_utf8(text, 0);
    if (!is_space(c.code)) break;
    text.remove_prefix(static_cast<size_t>(c.length));
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (!is_space(decode_valid_utf8(text, at).code)) break;
    text = text.substr(0, at);
  }
  return std::string(text);
}

void nmt(std::string& out, char32_t c) {
  const bool removed = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
                       c == 0x8F || c == 0x9F;
  const bool space = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 ||
                     (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xFEFF || c == 0xFFFD;
  if (!removed) append_utf8(out, space ? U' ' : c);
}

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/// A file can ask for replacements of replacements without end.
void check_growth(size_t size, size_t text_size, const std::string& where) {
  if (size > 64 * text_size + (1 << 20))
    fail(
        "{}: a text of {} bytes grows to more than {}; the tokenizer file is not made for real "
        "text",
        where, text_size, size);
}

/// Characters that got a decomposition after Unicode 12.0, the version of `tokenizers` (0.23.3):
/// models were trained with texts in which they stay as they are.
bool is_newer_than_tokenizers(char32_t c) {
  constexpr std::pair<char32_t, char32_t> ranges[] = {
      {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
      {0x11938, 0x11938}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};
  return c >= ranges[0].first &&
         std::ranges::any_of(ranges, [c](auto r) { return r.first <= c && c <= r.second; });
}

/// `text` in a normal form as `tokenizers` makes it.
std::string normal_form(std::string_view text, NormalForm form) {
  std::string out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const auto [code, length] = decode_valid_utf8(text, at);
    const size_t end = at + static_cast<size_t>(length);
    if (is_newer_than_tokenizers(code)) {
      out += normalize_utf8(text.substr(begin, at - begin), form);
      out += text.substr(at, end - at);
      begin = end;
    }
    at = end;
  }
  return out + normalize_utf8(text.substr(begin), form);
}

/// Lower case, with the letters of Unicode 16 and 17, which `tokenizers` knows.
void append_lower_case(std::string& out, char32_t c) {
  struct Letters {
    char32_t first, last, lower;  ///< `lower` belongs to `first`
  };
  constexpr Letters letters[] = {{0x1C89, 0x1C89, 0x1C8A},    {0xA7CB, 0xA7CB, 0x0264},
                                 {0xA7CC, 0xA7CC, 0xA7CD},    {0xA7CE, 0xA7CE, 0xA7CF},
                                 {0xA7D2, 0xA7D2, 0xA7D3},    {0xA7D4, 0xA7D4, 0xA7D5},
                                 {0xA7DA, 0xA7DA, 0xA7DB},    {0xA7DC, 0xA7DC, 0x019B},
                                 {0x10D50, 0x10D65, 0x10D70}, {0x16EA0, 0x16EB8, 0x16EBB}};
  const auto* found =
      c < letters[0].first
          ? std::end(letters)
          : std::ranges::find_if(
                letters, [c](const Letters& l) { return l.first <= c && c <= l.last; });
  if (found == std::end(letters)) return append_lower(out, c);
  append_utf8(out, found->lower + (c - found->first));
}

void add_bert(Normalizer& normalizer, const Json& json, const std::string& where) {
  const bool lowercase = bool_field(json, "lowercase", true, where);
  if (bool_field(json, "clean_text", true, where)) {
    normalizer.add(each_character([](std::string& out, char32_t c) {
      const bool control = c != '\t' && c != '\n' && c != '\r' && is_other(c);
      if (c != 0 && c != 0xFFFD && !control) append_utf8(out, is_space(c) ? U' ' : c);
    }));
  }
  if (bool_field(json, "handle_chinese_chars", true, where)) {
    normalizer.add(each_character([](std::string& out, char32_t c) {
      if (is_chinese(c)) out.push_back(' ');
      append_utf8(out, c);
      if (is_chinese(c)) out.push_back(' ');
    }));
  }
  if (bool_field(json, "strip_accents", lowercase, where)) {
    normalizer.add([](std::string_view text) { return normalize_utf8(text, NormalForm::kNfd); });
    normalizer.add(each_character([](std::string& out, char32_t c) {
      if (!is_nonspacing_mark(c)) append_utf8(out, c);
    }));
  }
  if (lowercase) normalizer.add(each_character(append_lower_case));
}

}  // namespace

Normalizer::Step replace_step(const Json& pattern, const std::string& content,
                              const std::string& where) {
  if (pattern.is_object() && pattern.contains("String")) {
    const std::string find = string_field(pattern, "String", where);
    return [find, content, where](std::string_view text) {
      std::string out;
      if (find.empty()) return std::string(text);
      for (size_t at = 0;;) {
        const size_t hit = text.find(find, at);
        out.append(text.substr(at, hit == std::string_view::npos ? hit : hit - at));
        if (hit == std::string_view::npos) return out;
        out.append(content);
        check_growth(out.size(), text.size(), where);
        at = hit + find.size();
      }
    };
  }
  const auto regex = std::make_shared<const Regex>(string_field(pattern, "Regex", where), where);
  return [regex, content, where](std::string_view text) {
    std::string out;
    size_t at = 0;
    regex->each(text, [&](Regex::Match match) {
      out.append(text.substr(at, match.begin - at)).append(content);
      check_growth(out.size(), text.size(), where);
      at = match.end;
    });
    out.append(text.substr(at));
    return out;
  };
}

Normalizer Normalizer::from_json(const Json& json, const std::string& where) {
  Normalizer normalizer;
  if (!json.is_null()) normalizer.add_json(json, where);
  return normalizer;
}

void Normalizer::add_json(const Json& json, const std::string& where) {
  const std::string type = string_field(json, "type", where);
  const auto form = [&](NormalForm wanted) {
    add([wanted](std::string_view text) { return normal_form(text, wanted); });
  };
  if (type == "Sequence") {
    for (const Json& part : array_field(json, "normalizers", where)) add_json(part, where);
  } else if (type == "NFC") {
    form(NormalForm::kNfc);
  } else if (type == "NFD") {
    form(NormalForm::kNfd);
  } else if (type == "NFKC") {
    form(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    form(NormalForm::kNfkd);
  } else if (type == "Prepend") {
    const std::string prefix = string_field(json, "prepend", where);
    add([prefix](std::string_view text) {
      return text.empty() ? std::string() : prefix + std::string(text);
    });
  } else if (type == "Replace") {
    add(replace_step(field(json, "pattern", where), string_field(json, "content", where),
                     where + ": Replace"));
  } else if (type == "Lowercase") {
    add(each_character(append_lower_case));
  } else if (type == "Strip") {
    const bool left = bool_field(json, "strip_left", true, where);
    const bool right = bool_field(json, "strip_right", true, where);
    add([left, right](std::string_view text) { return strip(text, left, right); });
  } else if (type == "StripAccents") {
    add(each_character([](std::string& out, char32_t c) {
      if (!is_mark(c)) append_utf8(out, c);
    }));
  } else if (type == "Nmt") {
    add(each_character(nmt));
  } else if (type == "ByteLevel") {
    add([](std::string_view text) { return to_byte_letters(text); });
  } else if (type == "BertNormalizer") {
    add_bert(*this, json, where);
  } else {
    fail(
        "{}: normalizer '{}' is not supported; supported are Sequence, NFC, NFD, NFKC, NFKD, "
        "Prepend, Replace, "
        "Lowercase, Strip, StripAccents, Nmt, ByteLevel and BertNormalizer",
        where, type);
  }
}

std::string Normalizer::apply(std::string_view text) const {
  if (steps_.empty()) return std::string(text);
  std::string out = steps_.front()(text);
  for (size_t i = 1; i < steps_.size(); ++i) {
    check_growth(out.size(), text.size(), "normalizer");
    out = steps_[i](out);
  }
  return out;
}

}  // namespace sala
