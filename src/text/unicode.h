#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sala {

/// The replacement character, U+FFFD, as UTF-8.
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// A decoded character: its code point and the bytes it took; `length` 0 when the bytes are not a
/// character.
struct Utf8Char {
  char32_t code = 0;
  int length = 0;
};

/// Decodes the character at the start of `text`, by the rules of RFC 3629 (no surrogates, no
/// overlong forms).
Utf8Char decode_utf8(std::string_view text);

/// Decodes the character at `at` of a text that is known to be valid.
inline Utf8Char decode_valid_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F),
          4};
}

/// Appends `code` as UTF-8.
void append_utf8(std::string& out, char32_t code);

/// `code` as UTF-8.
std::string to_utf8(char32_t code);

/// The bytes at the start of `text` that could be the start of a longer character (0 when it begins
/// with a whole character or with a byte that can begin none): what a streaming decoder must wait
/// for.
int incomplete_utf8(std::string_view text);

/// Where the first byte is that belongs to no character; `text.size()` when the text is valid.
size_t find_invalid_utf8(std::string_view text);

/// How many U+FFFD stand for a run of invalid bytes.
enum class Repair {
  kMaximalSubpart,  ///< one per truncated character, as Python's errors="replace" and Rust's
                    ///< from_utf8_lossy
  kEachByte,        ///< one per byte, as sentencepiece
};

/// `text` with its invalid bytes replaced by U+FFFD.
std::string repair_utf8(std::string_view text, Repair repair);

/// Number of characters of a valid text.
size_t count_utf8(std::string_view text);

/// Unicode's White_Space.
bool is_space(char32_t code);
/// General category N (Nd, Nl, No).
bool is_numeric(char32_t code);
/// General category Nd.
bool is_decimal_digit(char32_t code);
/// General category L.
bool is_letter(char32_t code);
/// General category P.
bool is_punctuation(char32_t code);
/// General category M.
bool is_mark(char32_t code);
/// General category Z.
bool is_separator(char32_t code);
/// General category Mn.
bool is_nonspacing_mark(char32_t code);
/// General category C (control, format, surrogate, unassigned, private).
bool is_other(char32_t code);
/// What Unicode's regular expressions call \w: alphabetic characters, marks, decimal digits,
/// connectors, joiners.
bool is_word(char32_t code);

/// Full lower case of one character (two characters for U+0130), appended.
void append_lower(std::string& out, char32_t code);
void append_upper(std::string& out, char32_t code);

/// Normalisation forms.
enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

/// `text` in a normal form; gives it back unchanged without work when it is ASCII.
std::string normalize_utf8(std::string_view text, NormalForm form);

}  // namespace sala
