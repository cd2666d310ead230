#include "text/python_literal.h"

namespace sala {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

std::string_view json_of_word(std::string_view word) {
  if (word == "True") return "true";
  if (word == "False") return "false";
  if (word == "None") return "null";
  return word;
}

/// The string that begins at `at`, which it leaves behind its closing quote.
std::string json_of_string(std::string_view text, size_t& at) {
  const char quote = text[at++];
  std::string json = "\"";
  while (at < text.size() && text[at] != quote) {
    const char c = text[at++];
    if (c != '\\' || at == text.size()) {
      json += c == '"' ? "\\\"" : std::string(1, c);
      continue;
    }
    const char escaped = text[at++];
    if (escaped == '\'')
      json += '\'';
    else if (escaped == 'x')
      json += "\\u00";
    else
      json += {'\\', escaped};
  }
  if (at < text.size()) {
    ++at;
    json += '"';
  }
  return json;
}

}  // namespace

std::string json_of_python(std::string_view text) {
  std::string json;
  size_t at = 0;
  while (at < text.size()) {
    if (text[at] == '\'' || text[at] == '"') {
      json += json_of_string(text, at);
    } else if (is_letter(text[at])) {
      const size_t begin = at;
      while (at < text.size() && is_letter(text[at])) ++at;
      json += json_of_word(text.substr(begin, at - begin));
    } else {
      json += text[at++];
    }
  }
  return json;
}

}  // namespace sala
