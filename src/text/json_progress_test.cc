#include "text/json_progress.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace sala {
namespace {

/// Where a text ends as a value, breaks, or that it is still open.
std::string fate(std::string_view text) {
  JsonProgress progress;
  for (size_t i = 0; i < text.size(); ++i) {
    const JsonProgress::Is is = progress.step(text[i]);
    if (is == JsonProgress::Is::whole) return "whole " + std::to_string(i + 1);
    if (is == JsonProgress::Is::broken) return "broken " + std::to_string(i + 1);
  }
  return "open";
}

TEST(JsonProgress, FindsTheEnd) {
  EXPECT_EQ(fate("{}"), "whole 2");
  EXPECT_EQ(fate("  [ ] x"), "whole 5");
  EXPECT_EQ(fate(R"({"a": [1, -2.5e+3, true, null, "}]\"\\\u00e9"], "b": {"c": {}}} {)"),
            "whole 63");
  EXPECT_EQ(fate(R"({"a": "b)"), "open");
  EXPECT_EQ(fate(R"([[[)"), "open");
}

TEST(JsonProgress, FindsTheFirstFault) {
  EXPECT_EQ(fate("1"), "broken 1");
  EXPECT_EQ(fate("\"a\""), "broken 1");
  EXPECT_EQ(fate("{1"), "broken 2");
  EXPECT_EQ(fate("{,"), "broken 2");
  EXPECT_EQ(fate("[,"), "broken 2");
  EXPECT_EQ(fate("[1,]"), "broken 4");
  EXPECT_EQ(fate("[1 2"), "broken 4");
  EXPECT_EQ(fate("[}"), "broken 2");
  EXPECT_EQ(fate("{\"a\"}"), "broken 5");
  EXPECT_EQ(fate("{\"a\":}"), "broken 6");
  EXPECT_EQ(fate("{\"a\":1,}"), "broken 8");
  EXPECT_EQ(fate("{\"a\" 1"), "broken 6");
  EXPECT_EQ(fate("{\"a, \"b"), "broken 7");
  EXPECT_EQ(fate("[\"a\nb"), "broken 4");
  EXPECT_EQ(fate("[\"\\x"), "broken 4");
  EXPECT_EQ(fate("[\"\\u00g"), "broken 7");
  EXPECT_EQ(fate("[True"), "broken 2");
  EXPECT_EQ(fate(std::string_view("[\0", 2)), "broken 2");
  EXPECT_EQ(fate(std::string(256, '[')), "open");
  EXPECT_EQ(fate(std::string(257, '[')), "broken 257");
}

TEST(JsonProgress, AgreesWithTheParser) {
  for (const std::string text : {R"({"a":1})", R"([])", R"([{}])", R"({"a":[{"b":"\n"}],"c":-0.5})",
                                 R"([1e5,"\ud83d\ude00"])", R"([null,true,false])"}) {
    ASSERT_TRUE(OrderedJson::accept(text)) << text;
    EXPECT_EQ(fate(text), "whole " + std::to_string(text.size()));
    for (size_t i = 0; i < text.size(); ++i) {
      std::string without = text;
      without.erase(i, 1);
      // A number or a bare word at the top is left to the parser.
      if (!OrderedJson::accept(without) || !OrderedJson::parse(without).is_structured()) continue;
      EXPECT_EQ(fate(without), "whole " + std::to_string(without.size())) << without;
    }
  }
}

TEST(JsonProgress, Pieces) {
  using Pieces = std::vector<std::string_view>;
  EXPECT_EQ(json_pieces("[]"), Pieces());
  EXPECT_EQ(json_pieces(" { } "), Pieces());
  EXPECT_EQ(json_pieces(R"( {"a" : 1, "b,:" :{"c": [1, 2]} } )"),
            (Pieces{"\"a\"", "1", "\"b,:\"", R"({"c": [1, 2]})"}));
  EXPECT_EQ(json_pieces(R"([1, "]\"", [2,3], {"a":4}])"),
            (Pieces{"1", R"("]\"")", "[2,3]", R"({"a":4})"}));
}

}  // namespace
}  // namespace sala
