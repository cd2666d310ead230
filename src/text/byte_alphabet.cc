#include "text/byte_alphabet.h"

#include <array>

#include "text/unicode.h"

namespace sala {
namespace {

constexpr bool is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

constexpr int kLetters = 256 + 68;

struct Alphabet {
  std::array<char32_t, 256> letters{};
  std::array<short, kLetters> bytes{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.bytes) byte = -1;
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t letter = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.letters[static_cast<size_t>(byte)] = letter;
    alphabet.bytes[letter] = static_cast<short>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_to_letter(unsigned char byte) { return kAlphabet.letters[byte]; }

int letter_to_byte(char32_t letter) { return letter < kLetters ? kAlphabet.bytes[letter] : -1; }

std::string to_byte_letters(std::string_view text) {
  std::string out;
  out.reserve(text.size() * 2);
  for (const char c : text) append_utf8(out, byte_to_letter(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace sala
