#include <utf8proc.h>

#include <algorithm>

#include "base/error.h"
#include "text/jinja/text_methods.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

template <class Visit>
void each_character(std::string_view text, Visit&& visit) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    visit(c.code, at);
    at += static_cast<size_t>(c.length);
  }
}

size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

/// Letters whose upper case has several characters, by Unicode's SpecialCasing.
void append_full_upper(std::string& out, char32_t code) {
  static constexpr std::string_view kLigatures[] = {"FF", "FI", "FL", "FFI", "FFL", "ST", "ST"};
  if (code >= 0xFB00 && code <= 0xFB06) {
    out.append(kLigatures[code - 0xFB00]);
  } else if (code == 0x149) {
    out.append("\xCA\xBCN");
  } else if (code == 0x1F0) {
    out.append("J\xCC\x8C");
  } else {
    append_upper(out, code);
  }
}

void append_title(std::string& out, char32_t code) {
  if (code == 0xDF || (code >= 0xFB00 && code <= 0xFB06)) {
    std::string full;
    append_full_upper(full, code);
    out.append(full.substr(0, 1)).append(lower_text(full.substr(1)));
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code))));
}

/// The character at `at`, where a capital sigma that ends a word is the final sigma already: it has
/// a lower case of its own there.
char32_t sigma_at(std::string_view text, size_t at, char32_t code) {
  if (code != 0x3A3 || at == 0) return code;
  const std::string_view before = text.substr(0, at);
  if (!has_case(decode_valid_utf8(before, last_character(before)).code)) return code;
  const size_t after = at + 2;
  return after >= text.size() || !has_case(decode_valid_utf8(text, after).code) ? 0x3C2 : code;
}

}  // namespace

bool is_python_space(char32_t code) { return is_space(code) || (code >= 0x1C && code <= 0x1F); }

bool is_upper(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_LU;
}
bool is_lower(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_LL;
}
bool has_case(char32_t code) {
  return is_upper(code) || is_lower(code) ||
         utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_LT;
}

std::string strip_text(std::string_view text, const std::string* characters, bool left,
                       bool right) {
  const auto strips = [&](size_t at) {
    const Utf8Char c = decode_valid_utf8(text, at);
    if (characters == nullptr) return is_python_space(c.code);
    return characters->find(text.substr(at, static_cast<size_t>(c.length))) != std::string::npos;
  };
  while (left && !text.empty() && strips(0))
    text.remove_prefix(static_cast<size_t>(decode_valid_utf8(text, 0).length));
  while (right && !text.empty() && strips(last_character(text)))
    text = text.substr(0, last_character(text));
  return std::string(text);
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t count) {
  constexpr size_t kMax = 64 << 20;
  std::string out;
  const auto check = [&] {
    if (out.size() > kMax) fail("a text grows beyond {} bytes", kMax);
  };
  if (from.empty()) {
    // Python puts the replacement between all characters.
    each_character(text, [&](char32_t code, size_t) {
      if (count-- != 0)
        out.append(to);
      else
        count = 0;
      append_utf8(out, code);
      check();
    });
    if (count != 0) out.append(to);
    return out;
  }
  size_t at = 0;
  for (; count != 0; --count) {
    const size_t hit = text.find(from, at);
    if (hit == std::string_view::npos) break;
    out.append(text.substr(at, hit - at)).append(to);
    at = hit + from.size();
    check();
  }
  return out.append(text.substr(at));
}

namespace {

std::vector<std::string> split_at_spaces(std::string_view text, int64_t limit) {
  std::vector<std::string> out;
  text = text.substr(text.size() - strip_text(text, nullptr, true, false).size());
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) {
      out.emplace_back(text);
      return out;
    }
    size_t end = 0;
    while (end < text.size() && !is_python_space(decode_valid_utf8(text, end).code))
      end += static_cast<size_t>(decode_valid_utf8(text, end).length);
    out.emplace_back(text.substr(0, end));
    while (end < text.size() && is_python_space(decode_valid_utf8(text, end).code))
      end += static_cast<size_t>(decode_valid_utf8(text, end).length);
    text.remove_prefix(end);
  }
  return out;
}

std::vector<std::string> split_at_spaces_from_right(std::string_view text, int64_t limit) {
  std::vector<std::string> out;
  text = text.substr(0, strip_text(text, nullptr, false, true).size());
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) {
      out.emplace_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0 &&
           !is_python_space(decode_valid_utf8(text, last_character(text.substr(0, begin))).code))
      begin = last_character(text.substr(0, begin));
    out.emplace_back(text.substr(begin));
    text = text.substr(0, strip_text(text.substr(0, begin), nullptr, false, true).size());
  }
  std::ranges::reverse(out);
  return out;
}

}  // namespace

std::vector<std::string> split_text(std::string_view text, const std::string* separator,
                                    int64_t limit, bool from_right) {
  if (separator == nullptr)
    return from_right && limit >= 0 ? split_at_spaces_from_right(text, limit)
                                    : split_at_spaces(text, limit);
  if (separator->empty()) fail("empty separator");
  std::vector<std::string> out;
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t hit = from_right ? text.rfind(*separator) : text.find(*separator);
    if (hit == std::string_view::npos) break;
    const size_t after = hit + separator->size();
    out.emplace_back(from_right ? text.substr(after) : text.substr(0, hit));
    text = from_right ? text.substr(0, hit) : text.substr(after);
  }
  out.emplace_back(text);
  if (from_right) std::ranges::reverse(out);
  return out;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    size_t end = at + static_cast<size_t>(c.length);
    const bool ends = (c.code >= 10 && c.code <= 13) || (c.code >= 0x1C && c.code <= 0x1E) ||
                      c.code == 0x85 || c.code == 0x2028 || c.code == 0x2029;
    if (ends) {
      if (c.code == '\r' && end < text.size() && text[end] == '\n') ++end;
      out.emplace_back(text.substr(begin, (keep_ends ? end : at) - begin));
      begin = end;
    }
    at = end;
  }
  if (begin < text.size()) out.emplace_back(text.substr(begin));
  return out;
}

std::string upper_text(std::string_view text) {
  std::string out;
  each_character(text, [&](char32_t code, size_t) { append_full_upper(out, code); });
  return out;
}

std::string lower_text(std::string_view text) {
  std::string out;
  each_character(text,
                 [&](char32_t code, size_t at) { append_lower(out, sigma_at(text, at, code)); });
  return out;
}

std::string capitalize_text(std::string_view text) {
  if (text.empty()) return "";
  const Utf8Char first = decode_valid_utf8(text, 0);
  std::string out;
  append_title(out, first.code);
  return out + lower_text(text.substr(static_cast<size_t>(first.length)));
}

std::string swap_case(std::string_view text) {
  std::string out;
  each_character(text, [&](char32_t code, size_t at) {
    is_upper(code) ? append_lower(out, sigma_at(text, at, code)) : append_full_upper(out, code);
  });
  return out;
}

std::string title_text(std::string_view text) {
  std::string out;
  bool starts = true;
  each_character(text, [&](char32_t code, size_t at) {
    starts ? append_title(out, code) : append_lower(out, sigma_at(text, at, code));
    starts = !has_case(code);
  });
  return out;
}

}  // namespace sala::jinja
