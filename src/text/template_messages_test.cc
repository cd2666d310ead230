#include "text/template_messages.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace sala {
namespace {

OrderedJson assistant(const std::string& calls) {
  return OrderedJson::parse(R"([{"role": "user", "content": null},
      {"role": "assistant", "content": null, "tool_calls": )" +
                            calls + "}]");
}

OrderedJson arguments_of(const std::string& written) {
  const OrderedJson call = {{"id", "1"}, {"function", {{"name", "f"}, {"arguments", written}}}};
  return template_messages(
      assistant(OrderedJson::array({call}).dump()))[1]["tool_calls"][0]["function"]["arguments"];
}

TEST(TemplateMessages, ArgumentsBecomeObjects) {
  EXPECT_EQ(arguments_of(R"({"b": 1, "a": {"c": [1.5, null]}})").dump(),
            R"({"b":1,"a":{"c":[1.5,null]}})");
  EXPECT_EQ(arguments_of("{}"), OrderedJson::object());
}

TEST(TemplateMessages, OtherArgumentsStay) {
  for (const std::string text : {"", "{", "[1]", "1", "\"a\"", "null", "{\"a\": 1} x"})
    EXPECT_EQ(arguments_of(text), OrderedJson(text));
  const std::string deep = std::string(300, '[') + std::string(300, ']');
  EXPECT_EQ(arguments_of("{\"a\": " + deep + "}"), OrderedJson("{\"a\": " + deep + "}"));
}

TEST(TemplateMessages, AllCallsOfAllMessages) {
  const std::string calls = R"([{"function": {"name": "f", "arguments": "{\"a\": 1}"}},
      {"name": "g", "arguments": "{\"b\": 2}"}, {"function": {"name": "h", "arguments": {"c": 3}}},
      {"function": {"name": "i"}}, 5])";
  const OrderedJson messages = template_messages(assistant(calls));
  EXPECT_EQ(messages[1]["tool_calls"], OrderedJson::parse(R"([
      {"function": {"name": "f", "arguments": {"a": 1}}}, {"name": "g", "arguments": {"b": 2}},
      {"function": {"name": "h", "arguments": {"c": 3}}}, {"function": {"name": "i"}}, 5])"));
}

TEST(TemplateMessages, ContentBesideCallsIsAText) {
  const OrderedJson messages = template_messages(assistant(R"([{"function": {"name": "f"}}])"));
  EXPECT_EQ(messages[1]["content"], "");
  EXPECT_EQ(messages[0]["content"], nullptr);
  OrderedJson said = assistant(R"([{"function": {"name": "f"}}])");
  said[1]["content"] = "Well.";
  EXPECT_EQ(template_messages(said)[1]["content"], "Well.");
  said[1].erase("content");
  EXPECT_EQ(template_messages(said)[1]["content"], "");
}

TEST(TemplateMessages, OthersAreAsTheyCame) {
  for (const std::string text :
       {"null", "5", "[1, null, \"a\"]", R"([{"role": "assistant", "content": null}])",
        R"([{"role": "assistant", "content": null, "tool_calls": []}])",
        R"([{"role": "assistant", "content": null, "tool_calls": {"a": 1}}])"})
    EXPECT_EQ(template_messages(OrderedJson::parse(text)), OrderedJson::parse(text));
}

}  // namespace
}  // namespace sala
