#pragma once

#include <string>
#include <string_view>

namespace sala {

/// GPT-2's alphabet: each of the 256 bytes as one printable character, so that a vocabulary of
/// bytes can be written as text (a space is "Ġ", a newline "Ċ").
char32_t byte_to_letter(unsigned char byte);

/// The byte that a letter stands for, or -1.
int letter_to_byte(char32_t letter);

/// Each byte of `text` as its letter.
std::string to_byte_letters(std::string_view text);

}  // namespace sala
