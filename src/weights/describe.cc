#include "weights/describe.h"

#include <fmt/format.h>

#include <algorithm>

namespace sala {
namespace {

/// The length of the well-formed UTF-8 sequence at the start of `text`, 0 if there is none.
size_t sequence_length(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned>(static_cast<unsigned char>(text[i])) : 0U;
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const unsigned first = byte(0);
  if (first < 0x80) return text.empty() ? 0 : 1;
  if (first < 0xC2) return 0;
  if (first < 0xE0) return continues(1) ? 2 : 0;
  if (first < 0xF0) {
    if (!continues(1) || !continues(2)) return 0;
    const unsigned code = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    return code >= 0x800 && (code < 0xD800 || code > 0xDFFF) ? 3 : 0;
  }
  if (first > 0xF4 || !continues(1) || !continues(2) || !continues(3)) return 0;
  const unsigned plane = (first & 0x07) << 18 | (byte(1) & 0x3F) << 12;
  return plane >= 0x10000 && plane <= 0x10FFFF ? 4 : 0;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = sequence_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view name) {
  constexpr size_t kLongest = 120;
  std::string result = "'";
  while (!name.empty()) {
    if (result.size() > kLongest) return result + "...'";
    const size_t length = sequence_length(name);
    const auto first = static_cast<unsigned char>(name[0]);
    if (length == 0 || first < 0x20 || first == 0x7F) {
      result += fmt::format("\\x{:02x}", first);
      name.remove_prefix(1);
    } else {
      result += name.substr(0, length);
      name.remove_prefix(length);
    }
  }
  return result + "'";
}

std::string shape_text(std::span<const int64_t> shape) {
  constexpr size_t kMost = 8;
  std::string result = "[";
  for (size_t i = 0; i < std::min(shape.size(), kMost); ++i)
    result += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return result + (shape.size() > kMost ? ", ...]" : "]");
}

std::optional<int64_t> element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0)
      empty = true;
    else if (__builtin_mul_overflow(count, extent, &count))
      return std::nullopt;
  }
  return empty ? 0 : count;
}

}  // namespace sala
