// Draws texts of a language and says which texts are in it, so that both can be compared with other
// readers of JSON schemas and regular expressions.
//
// Each line of standard input is a JSON object with one of
//   {"schema": schema}, {"pattern": text, "whole": bool}, {"gbnf": text}
// and {"texts": [text, ...], "draw": count, "seed": number}, which may be left out. Each line of
// standard output is {"in": [bool of each text...], "drawn": [text, ...]} or {"error": text}. A
// drawn text that does not come to an end is left out.

#include <array>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/random.h"
#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "grammar/pattern.h"
#include "grammar/testing.h"
#include "lines.h"
#include "text/chat_template.h"

namespace {

using sala::OrderedJson;
using sala::Recogniser;

std::shared_ptr<const sala::Grammar> grammar_of(const OrderedJson& question) {
  sala::Rules rules;
  sala::Language language;
  if (question.contains("schema"))
    language = sala::json_language(question["schema"], rules);
  else if (question.contains("gbnf"))
    language = sala::parse_gbnf(question["gbnf"].get<std::string>(), rules);
  else
    language = sala::parse_pattern(question.at("pattern").get<std::string>(),
                                   question.value("whole", false));
  return std::make_shared<const sala::Grammar>(language, rules);
}

/// A text made byte by byte; one that gets long is steered to what closes JSON.
std::optional<std::string> drawn(Recogniser& recogniser, sala::Random& random) {
  constexpr size_t kLong = 60, kTooLong = 4000;
  std::string text;
  Recogniser::Place place = recogniser.start();
  while (text.size() < kTooLong) {
    if (recogniser.may_end(place) && (!recogniser.goes_on(place) || random.below(4) == 0))
      return text;
    std::vector<uint8_t> may;
    for (int byte = 0; byte < 256; ++byte)
      if (recogniser.next(place, static_cast<uint8_t>(byte)) != Recogniser::kNowhere)
        may.push_back(static_cast<uint8_t>(byte));
    uint8_t byte = may[static_cast<size_t>(random.below(std::ssize(may)))];
    const bool close = text.size() > kLong || random.below(6) == 0;
    for (const char c : std::string_view("\"}]"))
      if (close && random.below(8) != 0 &&
          recogniser.next(place, static_cast<uint8_t>(c)) != Recogniser::kNowhere) {
        byte = static_cast<uint8_t>(c);
        break;
      }
    place = recogniser.next(place, byte);
    text.push_back(static_cast<char>(byte));
  }
  return {};
}

OrderedJson answer(const OrderedJson& question) {
  Recogniser recogniser(grammar_of(question));
  OrderedJson in = OrderedJson::array(), texts = OrderedJson::array();
  for (const OrderedJson& text : question.value("texts", OrderedJson::array()))
    in.push_back(sala::testing::accepts(recogniser, text.get_ref<const std::string&>()));
  sala::Random random(question.value("seed", 0U));
  for (int i = question.value("draw", 0); i > 0; --i)
    if (const auto text = drawn(recogniser, random)) texts.push_back(*text);
  return {{"in", std::move(in)}, {"drawn", std::move(texts)}};
}

}  // namespace

int main() try {
  answer_lines([](const std::string& line) {
    return answer(sala::parse_ordered_json(line, "standard input"));
  });
  return 0;
} catch (const std::exception& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
