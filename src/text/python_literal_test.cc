#include "text/python_literal.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace sala {
namespace {

TEST(PythonLiteral, AsJson) {
  for (const auto& [python, json] : {
           std::pair("True", "true"),
           std::pair("None", "null"),
           std::pair("-1.5e+20", "-1.5e+20"),
           std::pair("'a'", R"("a")"),
           std::pair(R"("it's")", R"("it's")"),
           std::pair(R"('say "x"')", R"("say \"x\"")"),
           std::pair(R"('both \' and "')", R"("both ' and \"")"),
           std::pair(R"('a\n\t\\b\x07\u200b')", R"("a\n\t\\b\u0007\u200b")"),
           std::pair("{'a': [1, False, {}], 'True': 'None'}",
                     R"({"a": [1, false, {}], "True": "None"})"),
           std::pair("['Grüße', '你好']", R"(["Grüße", "你好"])"),
       }) {
    EXPECT_EQ(json_of_python(python), json);
    EXPECT_TRUE(OrderedJson::accept(json_of_python(python)));
  }
}

TEST(PythonLiteral, JsonStaysAsItIs) {
  for (const std::string json : {R"({"a": [1, true, null, "\"\\\u00e9\/"]})", "[]", "12"})
    EXPECT_EQ(json_of_python(json), json);
}

TEST(PythonLiteral, OthersAreNoJson) {
  for (const std::string text : {"'", "'a", "'a\\", "a", "Trueish", "(1, 2)", "{1, 2}", "b'x'",
                                 "'\\x'", "f(1)", "", "['a' 'b']", "'a\nb'", R"('\a')"})
    EXPECT_FALSE(OrderedJson::accept(json_of_python(text))) << text;
}

}  // namespace
}  // namespace sala
