// Tokenizer files and texts: any bytes give an Error, or ids in range and valid UTF-8.
//
// Input: one byte that says what the file is (even: tokenizer.json, odd: tokenizer.model), two
// bytes with the length of the text, the text, the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void check(const sala::Tokenizer& tokenizer, std::string_view text, bool parse_special) {
  const auto ids = tokenizer.encode(text, {.parse_special = parse_special});
  for (const int id : ids) require(id >= 0 && id < tokenizer.size());
  for (const bool skip : {false, true}) {
    const std::string decoded = tokenizer.decode(ids, skip);
    require(sala::find_invalid_utf8(decoded) == decoded.size());
    sala::Detokenizer stream(tokenizer, skip);
    for (const int id : ids) {
      const std::string part = stream.push(id);
      require(sala::find_invalid_utf8(part) == part.size());
    }
    const std::string rest = stream.flush();
    require(sala::find_invalid_utf8(rest) == rest.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t length = std::min<size_t>({data[1] + size_t{256} * data[2], size - 3, 2048});
  const std::string_view text = input.substr(3, length);
  const std::string_view file = input.substr(3 + length);
  try {
    const auto tokenizer =
        data[0] % 2 == 0 ? sala::parse_tokenizer_json(file, "fuzz")
                         : sala::parse_tokenizer_model(std::as_bytes(std::span(file)), "fuzz");
    check(*tokenizer, text, false);
    check(*tokenizer, text, true);
    check(*tokenizer, tokenizer->quote(text), true);
  } catch (const sala::Error&) {
  }
  return 0;
}
