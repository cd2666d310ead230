#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <limits>

#include "base/error.h"
#include "text/unicode_additions.h"

namespace sala {
namespace {

constexpr size_t kMaxPattern = 64 << 10;
constexpr uint32_t kMatchLimit = 1'000'000;

// What Oniguruma means by \s and \w in UTF-8. PCRE2's own differ: its \s has U+180E, its \w lacks
// marks and connectors.
constexpr std::string_view kSpaces =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})"
    R"(\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
constexpr std::string_view kHex = "0-9a-fA-F";

/// Per-thread scratch of PCRE2: where a match is written, its stack and its limits.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr);

  Scratch() {
    if (data == nullptr || context == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, 100'000);
    pcre2_set_heap_limit(context, 64 << 10);  // KiB
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

Scratch& scratch() {
  thread_local Scratch mine;
  return mine;
}

std::string error_text(int code) {
  std::array<unsigned char, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

/// The members of \d.
const std::string& digit_members() {
  static const std::string members = R"(\p{Nd})" + unicode_additions("Nd");
  return members;
}

/// The members of [:punct:], which has the symbols too.
const std::string& punctuation_members() {
  static const std::string members =
      R"(\p{P}\p{S})" + unicode_additions("P") + unicode_additions("S");
  return members;
}

/// The members of \w, newer characters included.
const std::string& word_members() {
  static const std::string members = std::string(kWord) + unicode_additions("L") +
                                     unicode_additions("M") + unicode_additions("Nd");
  return members;
}

/// Copies \p{...} from its letter at `at` to its end, which is returned. A script's name means the
/// script itself, as in Oniguruma; PCRE2 would take the characters that other scripts share with it
/// too. A general category is completed.
size_t append_property(std::string& out, std::string_view pattern, size_t at, bool in_class) {
  const size_t close = pattern.find('}', at);
  if (close == std::string_view::npos) {
    out.append("\\").append(pattern.substr(at));
    return pattern.size();
  }
  std::string_view name = pattern.substr(at + 2, close - at - 2);
  bool negated = pattern[at] == 'P';
  if (name.starts_with('^')) {
    negated = !negated;
    name.remove_prefix(1);
  }
  const bool script =
      name.size() > 2 && name.find_first_of(":=&_ ") == std::string_view::npos && name != "Any";
  const std::string additions = unicode_additions(name);
  if (additions.empty() || (in_class && negated)) {
    out.append(negated ? "\\P{" : "\\p{").append(script ? "sc:" : "").append(name).append("}");
  } else if (in_class) {
    out.append("\\p{").append(name).append("}").append(additions);
  } else {
    out.append(negated ? "[^" : "[")
        .append("\\p{")
        .append(name)
        .append("}")
        .append(additions)
        .append("]");
  }
  return close;
}

}  // namespace

std::string translate_onig(std::string_view pattern, const std::string& where) {
  std::string out;
  bool in_class = false;
  size_t class_start = 0;
  const auto add_class = [&](std::string_view members, bool negated) {
    if (in_class) {
      out.append(members);
    } else {
      out.append(negated ? "[^" : "[").append(members).append("]");
    }
  };
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      const bool negated = next == 'S' || next == 'W' || next == 'H';
      if (next == 's' || (next == 'S' && !in_class)) {
        add_class(kSpaces, negated);
      } else if (next == 'w' || (next == 'W' && !in_class)) {
        add_class(word_members(), negated);
      } else if (next == 'd' || (next == 'D' && !in_class)) {
        add_class(digit_members(), next == 'D');
      } else if (next == 'h' || (next == 'H' && !in_class)) {
        add_class(kHex, negated);
      } else if ((next == 'p' || next == 'P') && i + 1 < pattern.size() && pattern[i + 1] == '{') {
        i = append_property(out, pattern, i, in_class);
      } else {
        out.append({c, next});
      }
      continue;
    }
    if (in_class) {
      const bool posix = c == '[' && i + 1 < pattern.size() && pattern[i + 1] == ':';
      if (posix) {
        const size_t close = pattern.find(":]", i + 2);
        if (close != std::string_view::npos) {
          const std::string_view name = pattern.substr(i + 2, close - i - 2);
          out.append(name == "punct"   ? punctuation_members()
                     : name == "space" ? kSpaces
                                       : pattern.substr(i, close + 2 - i));
          i = close + 1;
          continue;
        }
      }
      if (c == '[' || pattern.substr(i, 2) == "&&")
        fail(
            "{}: the regular expression '{}' nests character classes, which is not supported; "
            "write it without",
            where, pattern);
      if (c == ']' && i > class_start) in_class = false;
    } else if (c == '[') {
      in_class = true;
      class_start = i + 1;
      if (class_start < pattern.size() && pattern[class_start] == '^') ++class_start;
      out.append(pattern.substr(i, class_start - i));
      i = class_start - 1;
      continue;
    }
    out.push_back(c);
  }
  return out;
}

void Regex::Free::operator()(void* code) const { pcre2_code_free(static_cast<pcre2_code*>(code)); }

Regex::Regex(std::string_view pattern, std::string where) : where_(std::move(where)) {
  if (pattern.size() > kMaxPattern)
    fail("{}: the regular expression has {} bytes, more than the {} that are accepted", where_,
         pattern.size(), kMaxPattern);
  const std::string translated = translate_onig(pattern, where_);
  int error = 0;
  size_t at = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                            &error, &at, nullptr));
  if (code_ == nullptr)
    fail("{}: the regular expression '{}' is not understood: {} at byte {} of '{}'", where_,
         pattern, error_text(error), at, translated);
  jit_ = pcre2_jit_compile(static_cast<pcre2_code*>(code_.get()), PCRE2_JIT_COMPLETE) == 0;
}

std::optional<Regex::Match> Regex::find(std::string_view text, size_t from) const {
  Scratch& mine = scratch();
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  // Without PCRE2_NO_UTF_CHECK every call would validate the rest of the text again: quadratic.
  const int found = jit_ ? pcre2_jit_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                           mine.data, mine.context)
                         : pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                       mine.data, mine.context);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0)
    fail("{}: matching the regular expression failed at byte {}: {}; simplify the expression",
         where_, from, error_text(found));
  const size_t* span = pcre2_get_ovector_pointer(mine.data);
  return Match{span[0], span[1]};
}

size_t Regex::after(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  return at;
}

}  // namespace sala
