#include "grammar/tool_call_language.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "base/random.h"
#include "grammar/grammar.h"
#include "grammar/recogniser.h"

namespace sala {
namespace {

const OrderedJson kTools = OrderedJson::parse(R"([
  {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}, "unit": {"enum": ["C", "F", "<K>"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
    "where": {"$ref": "#/$defs/place"}, "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2}},
    "required": ["city", "days"],
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number", "maximum": 9}}}, "tag": {"enum": [1, true]}}}}},
  {"type": "function", "function": {"name": "now"}}])");

/// A text of the grammar, drawn byte by byte; it ends where it can once it is long.
std::string draw(const Grammar& grammar, uint64_t seed) {
  Recogniser recogniser(std::make_shared<const Grammar>(grammar));
  Recogniser::Place place = recogniser.start();
  std::string text;
  for (uint64_t i = 0; i < 20'000; ++i) {
    if (recogniser.may_end(place) && (!recogniser.goes_on(place) || text.size() > 300)) return text;
    std::vector<uint8_t> may;
    // Tags often, letters otherwise: any text would hardly ever end.
    const bool short_ways = random_bits(seed, 2 * i) % 3 > 0;
    for (int byte = 0; byte < 256; ++byte) {
      const auto c = static_cast<uint8_t>(byte);
      const bool likely =
          byte < 128 &&
          (!short_ways ||
           std::string_view("<>/]\"}[CDATA parmetCion_").find(static_cast<char>(byte)) !=
               std::string_view::npos);
      if (recogniser.next(place, c) != Recogniser::kNowhere && likely) may.push_back(c);
    }
    if (may.empty()) continue;
    const uint8_t c = may[random_bits(seed, 2 * i + 1) % may.size()];
    place = recogniser.next(place, c);
    text += static_cast<char>(c);
  }
  return "";
}

class ToolCallLanguage : public ::testing::TestWithParam<ToolFormat> {};

TEST_P(ToolCallLanguage, IsReadAgain) {
  for (const bool several : {false, true}) {
    Rules rules;
    const Language language = tool_call_language(GetParam(), kTools, "", several, rules);
    const Grammar grammar(language, rules);
    int drawn = 0;
    size_t most = 0;
    for (uint64_t seed = 0; seed < 30; ++seed) {
      const std::string text = draw(grammar, seed);
      if (text.empty()) continue;
      ++drawn;
      ToolCallSplitter splitter(GetParam(), kTools);
      ToolCallSplitter::Part part = splitter.push(text), rest = splitter.flush();
      EXPECT_EQ(part.said + rest.said, "") << text;
      part.calls.insert(part.calls.end(), rest.calls.begin(), rest.calls.end());
      EXPECT_GE(part.calls.size(), 1U) << text;
      EXPECT_TRUE(several || part.calls.size() == 1U) << text;
      most = std::max(most, part.calls.size());
      for (const ToolCall& call : part.calls) {
        const OrderedJson arguments = OrderedJson::parse(call.arguments);
        if (call.name == "now") {
          EXPECT_TRUE(arguments.empty()) << text;
          continue;
        }
        ASSERT_EQ(call.name, "weather") << text;
        EXPECT_TRUE(arguments.at("city").is_string()) << text;
        EXPECT_TRUE(arguments.at("days").is_number_integer()) << text;
        const std::string unit = arguments.value("unit", "C");
        EXPECT_TRUE(unit == "C" || unit == "F" || unit == "<K>") << text;
      }
    }
    EXPECT_GT(drawn, 10);
    EXPECT_TRUE(!several || most > 1U);
  }
}

TEST_P(ToolCallLanguage, NamesOneTool) {
  Rules rules;
  const Language language = tool_call_language(GetParam(), kTools, "now", false, rules);
  const std::string text = draw(Grammar(language, rules), 1);
  EXPECT_NE(text.find("now"), std::string::npos);
  EXPECT_EQ(text.find("weather"), std::string::npos);
  EXPECT_THROW(tool_call_language(GetParam(), kTools, "then", false, rules), Error);
  for (const char* bad :
       {R"([{"function": {"name": "a<b"}}])", R"([{"function": {"name": "a\u0001b"}}])",
        R"([{"function": {"name": 1}}])", "[1]", R"([{"function": "f"}])",
        R"([{"type": "function"}])",
        R"([{"function": {"name": "f", "parameters": {"properties": 1}}}])",
        R"([{"function": {"name": "f", "parameters": {"properties": {}, "required": "x"}}}])"})
    EXPECT_THROW(tool_call_language(GetParam(), OrderedJson::parse(bad), "", false, rules), Error)
        << bad;
}

INSTANTIATE_TEST_SUITE_P(Formats, ToolCallLanguage,
                         ::testing::Values(ToolFormat::hermes, ToolFormat::minicpm_xml,
                                           ToolFormat::qwen_xml, ToolFormat::llama_json));

TEST(ToolCallLanguages, NeedAFormat) {
  Rules rules;
  EXPECT_THROW(tool_call_language(ToolFormat::none, kTools, "", false, rules), Error);
}

}  // namespace
}  // namespace sala
