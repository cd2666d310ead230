#include "text/pre_tokenizer.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "text/byte_alphabet.h"
#include "text/json_fields.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// \w+|[^\w\s]+ by the rules of Unicode, which this one step follows, instead of Oniguruma's.
constexpr const char* kWordsPattern =
    R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}]+)"
    R"(|[^\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}\s]+)";

/// What becomes of the delimiters that a text is split at.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior behavior_of(const std::string& name, const std::string& where) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  fail(
      "{}: split behavior '{}' is unknown; expected Removed, Isolated, MergedWithPrevious, "
      "MergedWithNext or "
      "Contiguous",
      where, name);
}

struct Part {
  size_t begin = 0;
  size_t end = 0;
  bool match = false;
};

/// Joins delimiters with their neighbours; a run of delimiters is merged only where the behaviour
/// says so.
std::vector<Part> join_parts(const std::vector<Part>& parts, Behavior behavior) {
  std::vector<Part> out;
  bool previous = false;
  const auto put = [&](const Part& part, bool joins, bool backwards) {
    if (joins && !out.empty()) {
      (backwards ? out.back().begin : out.back().end) = backwards ? part.begin : part.end;
    } else {
      out.push_back(part);
    }
    previous = part.match;
  };
  if (behavior == Behavior::kMergedWithNext) {
    for (auto it = parts.rbegin(); it != parts.rend(); ++it) put(*it, it->match && !previous, true);
    return {out.rbegin(), out.rend()};
  }
  for (const Part& part : parts)
    put(part, behavior == Behavior::kContiguous ? part.match == previous : part.match && !previous,
        false);
  return out;
}

/// Collects parts and hands them on according to the behaviour, without keeping them where that is
/// possible.
class Splitter {
 public:
  Splitter(std::string_view text, bool at_start, Behavior behavior, const PreTokenizer::Sink& sink)
      : text_(text), at_start_(at_start), behavior_(behavior), sink_(sink) {}

  /// `match`: this part is a delimiter.
  void part(size_t begin, size_t end, bool match) {
    if (behavior_ == Behavior::kIsolated || behavior_ == Behavior::kRemoved) {
      if (behavior_ == Behavior::kIsolated || !match) give(begin, end);
    } else {
      parts_.push_back({begin, end, match});
    }
  }
  void finish() {
    for (const Part& part : join_parts(parts_, behavior_)) give(part.begin, part.end);
  }

 private:
  void give(size_t begin, size_t end) {
    if (begin < end) sink_(text_.substr(begin, end - begin), at_start_ && begin == 0);
  }
  std::string_view text_;
  bool at_start_;
  Behavior behavior_;
  const PreTokenizer::Sink& sink_;
  std::vector<Part> parts_;
};

PreTokenizer::Step split_by_regex(const std::string& pattern, Behavior behavior, bool invert,
                                  const std::string& where) {
  const auto regex = std::make_shared<const Regex>(pattern, where);
  return [regex, behavior, invert](std::string_view text, bool at_start,
                                   const PreTokenizer::Sink& sink) {
    Splitter splitter(text, at_start, behavior, sink);
    size_t at = 0;
    regex->each(text, [&](Regex::Match match) {
      if (at != match.begin) splitter.part(at, match.begin, invert);
      splitter.part(match.begin, match.end, !invert);
      at = match.end;
    });
    if (at != text.size()) splitter.part(at, text.size(), invert);
    splitter.finish();
  };
}

/// Splits at the characters that `is_delimiter` accepts.
template <class Predicate>
PreTokenizer::Step split_by_character(Predicate is_delimiter, Behavior behavior) {
  return [is_delimiter, behavior](std::string_view text, bool at_start,
                                  const PreTokenizer::Sink& sink) {
    Splitter splitter(text, at_start, behavior, sink);
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_valid_utf8(text, at);
      const size_t end = at + static_cast<size_t>(c.length);
      if (is_delimiter(c.code)) {
        if (begin < at) splitter.part(begin, at, false);
        splitter.part(at, end, true);
        begin = end;
      }
      at = end;
    }
    if (begin < text.size()) splitter.part(begin, text.size(), false);
    splitter.finish();
  };
}

/// Exactly one character.
char32_t character_field(const Json& json, const char* key, const std::string& where) {
  const std::string text = string_field(json, key, where);
  const Utf8Char c = decode_utf8(text);
  if (c.length == 0 || static_cast<size_t>(c.length) != text.size())
    fail("{}: '{}' is '{}', expected one character", where, key, text);
  return c.code;
}

/// Spaces become `replacement`; a text that does not begin with one gets one in front.
PreTokenizer::Step metaspace(const Json& json, const std::string& where) {
  const char32_t mark = character_field(json, "replacement", where);
  const std::string replacement = to_utf8(mark);
  const Json& scheme_field = field(json, "prepend_scheme", where);
  std::string scheme =
      scheme_field.is_null() ? "always" : string_field(json, "prepend_scheme", where);
  if (!bool_field(json, "add_prefix_space", true, where)) scheme = "never";
  if (scheme != "always" && scheme != "first" && scheme != "never")
    fail("{}: 'prepend_scheme' is '{}', expected always, first or never", where, scheme);
  const bool split = bool_field(json, "split", true, where);
  const auto cut =
      split_by_character([mark](char32_t c) { return c == mark; }, Behavior::kMergedWithNext);
  return [=](std::string_view text, bool at_start, const PreTokenizer::Sink& sink) {
    std::string marked;
    marked.reserve(text.size() + text.size() / 2);
    for (const char c : text) c == ' ' ? void(marked.append(replacement)) : marked.push_back(c);
    if ((scheme == "always" || (scheme == "first" && at_start)) && !marked.starts_with(replacement))
      marked.insert(0, replacement);
    split ? cut(marked, at_start, sink) : sink(marked, at_start);
  };
}

PreTokenizer::Step fixed_length(size_t length) {
  return [length](std::string_view text, bool at_start, const PreTokenizer::Sink& sink) {
    size_t begin = 0;
    size_t count = 0;
    for (size_t at = 0; at < text.size();) {
      at += static_cast<size_t>(decode_valid_utf8(text, at).length);
      if (++count < length && at < text.size()) continue;
      sink(text.substr(begin, at - begin), at_start && begin == 0);
      begin = at;
      count = 0;
    }
  };
}

void add_byte_level(PreTokenizer& pre, const Json& json, const std::string& where, bool raw_bytes) {
  if (bool_field(json, "add_prefix_space", true, where)) {
    pre.add([](std::string_view text, bool at_start, const PreTokenizer::Sink& sink) {
      if (text.starts_with(' ')) return sink(text, at_start);
      std::string spaced(1, ' ');
      sink(spaced.append(text), at_start);
    });
  }
  if (bool_field(json, "use_regex", true, where))
    pre.add(split_by_regex(kGpt2Pattern, Behavior::kIsolated, false, where));
  if (!raw_bytes) {
    pre.add([](std::string_view text, bool at_start, const PreTokenizer::Sink& sink) {
      sink(to_byte_letters(text), at_start);
    });
  }
}

/// An expression that matches `text` itself.
std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)))
      out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

PreTokenizer::Step split_step(const Json& json, const std::string& where) {
  const Json& pattern = field(json, "pattern", where);
  const bool literal = pattern.is_object() && pattern.contains("String");
  std::string regex = string_field(pattern, literal ? "String" : "Regex", where);
  if (literal) regex = escape(regex);
  return split_by_regex(regex, behavior_of(string_field(json, "behavior", where), where),
                        bool_field(json, "invert", false, where), where);
}

bool is_ascii_punctuation(char32_t c) {
  return c < 0x80 && c > ' ' && c != 0x7F && !std::isalnum(static_cast<int>(c));
}

}  // namespace

PreTokenizer PreTokenizer::from_json(const Json& json, const std::string& where, bool raw_bytes) {
  PreTokenizer pre;
  if (!json.is_null()) pre.add_json(json, where, raw_bytes);
  return pre;
}

PreTokenizer PreTokenizer::from_patterns(const std::vector<std::string>& patterns,
                                         const std::string& where) {
  PreTokenizer pre;
  for (const std::string& pattern : patterns)
    pre.add(split_by_regex(pattern, Behavior::kIsolated, false, where));
  return pre;
}

bool PreTokenizer::ends_in_bytes(const Json& json) {
  if (!json.is_object()) return false;
  const std::string type = json.value("type", "");
  if (type == "ByteLevel") return true;
  const auto parts = json.find("pretokenizers");
  return type == "Sequence" && parts != json.end() && parts->is_array() && !parts->empty() &&
         ends_in_bytes(parts->back());
}

void PreTokenizer::add_json(const Json& json, const std::string& where, bool raw_bytes) {
  const std::string type = string_field(json, "type", where);
  const auto punctuation = [](char32_t c) { return is_ascii_punctuation(c) || is_punctuation(c); };
  if (type == "Sequence") {
    const Json& parts = array_field(json, "pretokenizers", where);
    for (size_t i = 0; i < parts.size(); ++i)
      add_json(parts[i], where, raw_bytes && i + 1 == parts.size());
  } else if (type == "ByteLevel") {
    add_byte_level(*this, json, where + ": ByteLevel", raw_bytes);
  } else if (type == "Split") {
    add(split_step(json, where + ": Split"));
  } else if (type == "Digits") {
    const bool each = bool_field(json, "individual_digits", false, where);
    add(split_by_character(is_numeric, each ? Behavior::kIsolated : Behavior::kContiguous));
  } else if (type == "Metaspace") {
    add(metaspace(json, where + ": Metaspace"));
  } else if (type == "Whitespace") {
    add(split_by_regex(kWordsPattern, Behavior::kRemoved, true, where));
  } else if (type == "WhitespaceSplit") {
    add(split_by_character(is_space, Behavior::kRemoved));
  } else if (type == "BertPreTokenizer") {
    add(split_by_character(is_space, Behavior::kRemoved));
    add(split_by_character(punctuation, Behavior::kIsolated));
  } else if (type == "Punctuation") {
    const Json& behavior = field(json, "behavior", where);
    add(split_by_character(punctuation,
                           behavior.is_null()
                               ? Behavior::kIsolated
                               : behavior_of(string_field(json, "behavior", where), where)));
  } else if (type == "CharDelimiterSplit") {
    const char32_t delimiter = character_field(json, "delimiter", where);
    add(split_by_character([delimiter](char32_t c) { return c == delimiter; }, Behavior::kRemoved));
  } else if (type == "FixedLength") {
    add(fixed_length(static_cast<size_t>(std::max(1, int_field(json, "length", 5, where)))));
  } else {
    fail(
        "{}: pre-tokenizer '{}' is not supported; supported are Sequence, ByteLevel, Split, "
        "Digits, Metaspace, "
        "Whitespace, WhitespaceSplit, BertPreTokenizer, Punctuation, CharDelimiterSplit and "
        "FixedLength",
        where, type);
  }
}

void PreTokenizer::run(size_t step, std::string_view piece, bool at_start, const Sink& sink) const {
  if (piece.empty()) return;
  if (step == steps_.size()) {
    sink(piece, at_start);
  } else if (step + 1 == steps_.size()) {
    steps_[step](piece, at_start, sink);
  } else {
    const auto next = [&](std::string_view part, bool start) { run(step + 1, part, start, sink); };
    steps_[step](piece, at_start, std::cref(next));
  }
}

}  // namespace sala
