#include "grammar/language.h"

#include <algorithm>
#include <utility>

namespace sala {
namespace {

constexpr char32_t kLastCode = 0x10FFFF, kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

template <class Node>
Language make(Node node) {
  return std::make_shared<const LanguageNode>(LanguageNode{std::move(node)});
}

/// The bytes of a character of the given length.
std::vector<uint8_t> bytes_of(char32_t code, int length) {
  static constexpr uint8_t kLead[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
  std::vector<uint8_t> bytes(static_cast<size_t>(length));
  for (size_t i = bytes.size(); i-- > 1; code >>= 6)
    bytes[i] = static_cast<uint8_t>(0x80 | (code & 0x3F));
  bytes[0] = static_cast<uint8_t>(kLead[length] | code);
  return bytes;
}

/// Rows for characters of one length: cut where only the last bytes run through all their values.
void add_rows(CodeRange range, int length, std::vector<std::vector<ByteRange>>& rows) {
  for (int tail = 1; tail < length; ++tail) {
    const char32_t mask = (char32_t{1} << (6 * tail)) - 1;
    if ((range.first & ~mask) == (range.last & ~mask)) continue;
    if ((range.first & mask) != 0) {
      add_rows({range.first, range.first | mask}, length, rows);
      return add_rows({(range.first | mask) + 1, range.last}, length, rows);
    }
    if ((range.last & mask) != mask) {
      add_rows({range.first, (range.last & ~mask) - 1}, length, rows);
      return add_rows({range.last & ~mask, range.last}, length, rows);
    }
  }
  const std::vector<uint8_t> low = bytes_of(range.first, length),
                             high = bytes_of(range.last, length);
  std::vector<ByteRange> row;
  for (size_t i = 0; i < low.size(); ++i) row.push_back({low[i], high[i]});
  rows.push_back(std::move(row));
}

}  // namespace

CharSet::CharSet(std::vector<CodeRange> ranges) {
  std::vector<CodeRange> parts;
  for (const CodeRange& range : ranges) {
    parts.push_back({range.first, std::min<char32_t>(range.last, kFirstSurrogate - 1)});
    parts.push_back(
        {std::max<char32_t>(range.first, kLastSurrogate + 1), std::min(range.last, kLastCode)});
  }
  std::erase_if(parts, [](const CodeRange& range) { return range.first > range.last; });
  std::ranges::sort(parts, {}, &CodeRange::first);
  for (const CodeRange& range : parts) {
    if (!ranges_.empty() && range.first <= ranges_.back().last + 1)
      ranges_.back().last = std::max(ranges_.back().last, range.last);
    else
      ranges_.push_back(range);
  }
}

CharSet CharSet::all() { return {{0, kLastCode}}; }

CharSet CharSet::inverted() const {
  std::vector<CodeRange> out;
  char32_t next = 0;
  for (const CodeRange& range : ranges_) {
    if (range.first > next) out.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCode) out.push_back({next, kLastCode});
  return CharSet(std::move(out));
}

CharSet CharSet::common(const CharSet& other) const {
  std::vector<CodeRange> out;
  for (size_t i = 0, j = 0; i < ranges_.size() && j < other.ranges_.size();) {
    const CodeRange &a = ranges_[i], &b = other.ranges_[j];
    if (std::max(a.first, b.first) <= std::min(a.last, b.last))
      out.push_back({std::max(a.first, b.first), std::min(a.last, b.last)});
    ++(a.last < b.last ? i : j);
  }
  return CharSet(std::move(out));
}

CharSet CharSet::without(const CharSet& other) const { return common(other.inverted()); }

bool CharSet::contains(char32_t code) const {
  return std::ranges::any_of(ranges_,
                             [&](CodeRange r) { return r.first <= code && code <= r.last; });
}

Language literal(std::string_view bytes) { return make(LanguageNode::Literal{std::string(bytes)}); }
Language one_of(CharSet set) { return make(LanguageNode::Characters{std::move(set)}); }
Language sequence(std::vector<Language> items) {
  if (items.size() == 1) return std::move(items[0]);
  return make(LanguageNode::Sequence{std::move(items)});
}
Language either(std::vector<Language> choices) {
  if (choices.size() == 1) return std::move(choices[0]);
  return make(LanguageNode::Either{std::move(choices)});
}
Language repeated(Language item, int least, int most) {
  return make(LanguageNode::Repeated{std::move(item), least, most});
}
Language optional(Language item) { return repeated(std::move(item), 0, 1); }
Language rule(RuleId id) { return make(LanguageNode::Rule{id}); }
Language language_of(Automaton automaton) { return make(std::move(automaton)); }

Language until(std::string_view end) {
  // State i: the last i bytes are the first i of `end` (Knuth, Morris, Pratt).
  Automaton automaton;
  for (size_t i = 0; i <= end.size(); ++i) {
    Automaton::State state;
    for (int byte = 0; i < end.size() && byte < 256; ++byte) {
      const std::string seen = std::string(end.substr(0, i)) + static_cast<char>(byte);
      size_t next = std::min(seen.size(), end.size());
      while (!seen.ends_with(end.substr(0, next))) --next;
      state.arcs.push_back(
          {static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), static_cast<int>(next)});
    }
    state.end = i == end.size();
    automaton.states.push_back(std::move(state));
  }
  return language_of(std::move(automaton));
}

std::vector<std::vector<ByteRange>> utf8_rows(CodeRange range) {
  static constexpr char32_t kLast[] = {0, 0x7F, 0x7FF, 0xFFFF, kLastCode};
  std::vector<std::vector<ByteRange>> rows;
  for (int length = 1; length <= 4; ++length) {
    const CodeRange part = {
        std::max<char32_t>(range.first, length == 1 ? 0 : kLast[length - 1] + 1),
        std::min(range.last, kLast[length])};
    if (part.first <= part.last) add_rows(part, length, rows);
  }
  return rows;
}

}  // namespace sala
