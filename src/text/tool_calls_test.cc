#include "text/tool_calls.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace sala {

/// For messages of Google Test.
void PrintTo(const ToolCall& call, std::ostream* out) {
  *out << call.name << '(' << call.arguments << ')';
}

namespace {

using enum ToolFormat;
using Part = ToolCallSplitter::Part;
using Calls = std::vector<ToolCall>;

const OrderedJson kTools = OrderedJson::parse(R"([
  {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
    "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
    "b": {"type": "boolean"}, "o": {"type": "object"}, "a": {"type": "array"},
    "z": {"type": "null"}, "si": {"type": ["string", "integer"]},
    "in": {"type": ["integer", "null"]},
    "any": {"anyOf": [{"type": "integer"}, {"type": "array"}]},
    "opt": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "e": {"enum": ["1", "2"]}, "en": {"enum": [1, 2]}, "odd": {"$ref": "#/x"}}}}},
  {"type": "function", "function": {"name": "g"}}])");

void add(Part& all, Part more) {
  all.said += more.said;
  for (ToolCall& call : more.calls) all.calls.push_back(std::move(call));
}

Part split(ToolFormat format, std::string_view text, size_t cut, size_t step) {
  ToolCallSplitter splitter(format, kTools);
  Part all = splitter.push(text.substr(0, cut));
  for (size_t i = cut; i < text.size(); i += step) add(all, splitter.push(text.substr(i, step)));
  add(all, splitter.flush());
  return all;
}

/// What a text is, however it is cut.
Part split(ToolFormat format, std::string_view text) {
  const Part whole = split(format, text, text.size(), 1);
  for (size_t cut = 0; cut < text.size(); ++cut) {
    const size_t step =
        cut == 0 ? 1 : text.size();  // first byte by byte, then at each place in two
    const Part same = split(format, text, cut, step);
    EXPECT_EQ(same.said, whole.said) << "cut at " << cut << " of " << text;
    EXPECT_EQ(same.calls, whole.calls) << "cut at " << cut << " of " << text;
  }
  return whole;
}

void expect(ToolFormat format, std::string_view text, const std::string& said, const Calls& calls) {
  SCOPED_TRACE(text);
  const Part all = split(format, text);
  EXPECT_EQ(all.said, said);
  EXPECT_EQ(all.calls, calls);
}

void expect_text(ToolFormat format, const std::string& text) { expect(format, text, text, {}); }

TEST(ToolCalls, Hermes) {
  expect(hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"s\": \"x\"}}\n</tool_call>", "",
         {{"f", R"({"s": "x"})"}});
  expect(hermes,
         "Let me see.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n"
         "<tool_call>{\"arguments\":{\"i\":1},\"name\":\"g\"}</tool_call>\n Done. ",
         "Let me see.Done. ", {{"f", "{}"}, {"g", R"({"i":1})"}});
}

TEST(ToolCalls, ArgumentsKeepTheirBytes) {
  const std::string bytes = R"({ "z" :1.50,  "a":[ 1e5, {"é":"\u00e9 </tool_call> \"}"} ] })";
  expect(hermes, "<tool_call>{\"name\":\"f\",\"arguments\":" + bytes + " }</tool_call>", "",
         {{"f", bytes}});
  expect(llama_json, "{\"name\":\"f\",\"parameters\":" + bytes + " }", "", {{"f", bytes}});
}

TEST(ToolCalls, HermesAsModelsBendIt) {
  const Calls call = {{"f", R"({"s": "x"})"}};
  const auto tagged = [](const std::string& json) {
    return "<tool_call>\n" + json + "\n</tool_call>";
  };
  expect(hermes, tagged(R"({"name": "f", "parameters": {"s": "x"}})"), "", call);
  expect(hermes, tagged(R"({"name": "f", "arguments": "{\"s\": \"x\"}"})"), "", call);
  expect(hermes, tagged(R"([{"name": "f", "arguments": {"s": "x"}}])"), "", call);
  expect(hermes, tagged(R"([{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}])"),
         "", {{"f", "{}"}, {"g", "{}"}});
  expect(hermes, tagged(R"({"name": "f"})"), "", {{"f", "{}"}});
  expect(hermes, tagged(R"({"name": "f", "arguments": null})"), "", {{"f", "{}"}});
  expect(hermes, tagged(R"({"name": "f", "arguments": ""})"), "", {{"f", "{}"}});
  // A tool that is not there is the client's to refuse.
  expect(hermes, tagged(R"({"name": "nobody", "arguments": {}})"), "", {{"nobody", "{}"}});
  // The end tag may be missing at the end.
  expect(hermes, "Hi <tool_call>\n{\"name\": \"f\", \"arguments\": {}}", "Hi", {{"f", "{}"}});
  expect(hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_c", "", {{"f", "{}"}});
}

TEST(ToolCalls, HermesThatIsNone) {
  for (const char* text :
       {"",
        " ",
        "plain",
        " a < b <tool_calls <tool_cal",
        "<tool_call>",
        "a\n<tool_call>\n",
        "<tool_call>no\n</tool_call>",
        "<tool_call>{\"name\": \"f\", \"argu",
        "<tool_call>{\"name\": \"f\", \"arguments\": {}} x</tool_call>",
        "<tool_call>{'name': 'f'}</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": \"\"}</tool_call>",
        "<tool_call>{\"name\": 1, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"[1]\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{1\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": nul}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\xff\"}}</tool_call>",
        "<tool_call>[{\"name\": \"f\"}, 1]</tool_call>",
        "</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\n\"}}</tool_call> \n"})
    expect_text(hermes, text);
  expect_text(hermes,
              "<tool_call>" + std::string(300, '[') + std::string(300, ']') + "</tool_call>");
}

TEST(ToolCalls, OneThatIsNoneDoesNotHideTheNext) {
  const std::string good = "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>";
  for (const std::string bad :
       {"<tool_call>{\"name\": \"f, \"arguments\": {}}</tool_call>", "<tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {}}", "<tool_call>{\"a\": \"\nb",
        "<<tool_call", "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool"}) {
    expect(hermes, bad + good, bad, {{"g", "{}"}});
    expect(hermes, " " + bad + " \n" + good, " " + bad, {{"g", "{}"}});
  }
}

std::string param(const std::string& name, const std::string& value) {
  return "<param name=\"" + name + "\">" + value + "</param>";
}

TEST(ToolCalls, MiniCpm) {
  const std::string city = param("s", "Zürich");
  expect(minicpm_xml, "<function name=\"f\">" + city + "</function>", "",
         {{"f", R"({"s": "Zürich"})"}});
  expect(minicpm_xml,
         "So:\n<function name=\"f\">\n  " + city + "\n " + param("i", "3") +
             "\n</function>\n<function name='g'></function> end",
         "So:end", {{"f", R"({"s": "Zürich", "i": 3})"}, {"g", "{}"}});
  const auto value = [](const std::string& written, const std::string& json) {
    expect(minicpm_xml, "<function name=\"f\">" + param("s", written) + "</function>", "",
           {{"f", "{\"s\": " + json + "}"}});
  };
  value("", R"("")");
  value(" a ", R"(" a ")");
  value("1", R"("1")");
  value("a &lt;b&gt; &amp;amp; &quot;&apos; & &x; &#65;", R"("a <b> &amp; \"' & &x; &#65;")");
  value("<![CDATA[if a < b && c:\n  </param></function> &lt;]]>",
        R"("if a < b && c:\n  </param></function> &lt;")");
  value("\n<![CDATA[ x ]]>\n", R"(" x ")");
  value("<![CDATA[a]]]]><![CDATA[>b]]>&amp;", R"("a]]>b&")");
  value("<b>bold</b>\n]]>", R"("<b>bold</b>\n]]>")");
  expect(
      minicpm_xml,
      "<function name=\"f\">" + param("s", "1") + param("i", "2") + param("s", "3") + "</function>",
      "", {{"f", R"({"s": "3", "i": 2})"}});
}

TEST(ToolCalls, MiniCpmThatIsNone) {
  for (const char* text :
       {"<function name=", "<function name=f></function>", "<function name=\"\"></function>",
        "<function name=\"f'></function>", "<function name=\"f\"/>", "<function name=\"f\">",
        "<function name=\"f\" x=\"1\"></function>", "<function name=\"a\nb\"></function>",
        "<function name=\"f\">x</function>", "<function name=\"f\"><param>1</param></function>",
        "<function name=\"f\"><param name=\"s\">1</function> ",
        "<function name=\"f\"><param name=\"s\"><![CDATA[1</param></function>",
        "<function name=\"f\"><param name=\"s\">\xff</param></function>",
        "<function name=\"\xff\"></function>", "<function=f></function>"})
    expect_text(minicpm_xml, text);
  const std::string open = "<function name=\"f\"><param name=\"s\">1</function>";
  expect(minicpm_xml, open + "\n<function name=\"g\"></function>", open, {{"g", "{}"}});
  expect_text(minicpm_xml, "<function name=\"" + std::string(300, 'f') + "\"></function>");
}

TEST(ToolCalls, QwenCoder) {
  const Calls call = {{"f", R"({"s": "a\nb", "i": 3})"}};
  const std::string function =
      "<function=f>\n<parameter=s>\na\nb\n</parameter>\n<parameter=i>\n3\n</parameter>\n</"
      "function>";
  expect(qwen_xml, "<tool_call>\n" + function + "\n</tool_call>", "", call);
  expect(qwen_xml, "I see.\n\n<tool_call>\n" + function + "\n</tool_call>\nAnd", "I see.And", call);
  expect(qwen_xml, "<tool_call>\n" + function, "", call);
  expect(qwen_xml, function, "", call);
  expect(qwen_xml, function + "\n</tool_call>", "", call);
  expect(qwen_xml, "<tool_call>" + function + "<function=g>\n</function></tool_call>", "",
         {call[0], {"g", "{}"}});
  expect(qwen_xml,
         "<tool_call>\n<function=g>\n</function>\n</tool_call>\n<tool_call>" + function +
             "</tool_call>",
         "", {{"g", "{}"}, call[0]});
  expect(qwen_xml,
         "<tool_call><function=f><parameter=s>1</parameter></function>"
         "<function=f><parameter=s>2</parameter></function></tool_call>",
         "", {{"f", R"({"s": "1"})"}, {"f", R"({"s": "2"})"}});
  // Only the outer line breaks lay the text out.
  expect(qwen_xml, "<function=f><parameter=s>\n\n  <b>&amp;\n\n</parameter></function>", "",
         {{"f", R"({"s": "\n  <b>&amp;\n"})"}});
  expect(qwen_xml, "<function=f><parameter=s>x</parameter></function>", "",
         {{"f", R"({"s": "x"})"}});
}

TEST(ToolCalls, QwenCoderThatIsNone) {
  for (const char* text :
       {"<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "<tool_call><function=></function>",
        "<function=f", "<tool_call><function=f><parameter=s>1", "<function=f>{\"s\": 1}</function>",
        "<tool_call><function=f></function> x", "<function=f><parameter=>1</parameter></function>",
        "</tool_call>", "x</tool_call>", "<tool_call></tool_call>"})
    expect_text(qwen_xml, text);
  const std::string open = "<tool_call>\n<function=f>\n<parameter=s>\n1\n</function>";
  expect(qwen_xml, open + "\n<tool_call><function=g></function></tool_call>", open, {{"g", "{}"}});
}

TEST(ToolCalls, ValuesHaveTheTypesOfTheSchema) {
  const auto value = [](const std::string& name, const std::string& text, const std::string& json) {
    SCOPED_TRACE(name + "=" + text);
    EXPECT_EQ(split(qwen_xml,
                    "<function=f><parameter=" + name + ">\n" + text + "\n</parameter></function>",
                    0, 1000)
                  .calls,
              (Calls{{"f", "{\"" + name + "\": " + json + "}"}}));
  };
  value("s", "true", R"("true")");
  value("s", "{\"a\": 1}", R"("{\"a\": 1}")");
  value("i", " 12 ", "12");
  value("i", "12.0", "12.0");
  value("i", "1.5", R"("1.5")");
  value("i", "twelve", R"("twelve")");
  value("i", "\"12\"", R"("\"12\"")");
  value("i", "true", R"("true")");
  value("i", "99999999999999999999999", "99999999999999999999999");
  value("n", "1.50", "1.50");
  value("n", "-2", "-2");
  value("n", "1e999", R"("1e999")");
  value("b", "true", "true");
  value("b", "False", "false");
  value("b", "1", R"("1")");
  value("o", R"({ "x":[1] })", R"({ "x":[1] })");
  value("o", "[1]", R"("[1]")");
  value("o", "{'x': 1, \"y\": [None, 'it\\'s']}", R"({"x": 1, "y": [null, "it's"]})");
  value("o", "{'x': y}", R"("{'x': y}")");
  value("a", "[1, \"b\"]", "[1, \"b\"]");
  value("a", std::string(300, '[') + std::string(300, ']'),
        "\"" + std::string(300, '[') + std::string(300, ']') + "\"");
  value("z", "None", "null");
  value("si", "1", R"("1")");
  value("in", "1", "1");
  value("in", "null", "null");
  value("in", "x", R"("x")");
  value("any", "[2]", "[2]");
  value("any", "true", R"("true")");
  value("opt", "null", R"("null")");
  value("e", "1", R"("1")");
  value("en", "1", "1");
  for (const char* unknown : {"odd", "else"}) {
    value(unknown, "1", "1");
    value(unknown, "{\"a\": null}", "{\"a\": null}");
    value(unknown, "True", R"("True")");
    value(unknown, "['a']", R"("['a']")");
    value(unknown, "\"a\"", R"("\"a\"")");
    value(unknown, "a", R"("a")");
  }
}

TEST(ToolCalls, Llama) {
  const std::string json = R"({"name": "f", "parameters": {"s": "x"}})";
  const ToolCall call = {"f", R"({"s": "x"})"};
  expect(llama_json, json, "", {call});
  expect(llama_json, " \n" + json + "\n", "", {call});
  expect(llama_json, "<|python_tag|>" + json, "", {call});
  expect(llama_json, R"({"type": "function", "name": "f", "arguments": {"s": "x"}})", "", {call});
  expect(llama_json, json + "; " + json, "", {call, call});
  expect(llama_json, "<|python_tag|> " + json + ";\n" + json, "", {call, call});
  expect(llama_json, json + "\n" + json, "", {call, call});
  expect(llama_json, json + "; x", "; x", {call});
  expect(llama_json, json + " Done.", "Done.", {call});
}

TEST(ToolCalls, LlamaThatIsNone) {
  for (const char* text :
       {"Sure: {\"name\": \"f\", \"parameters\": {}}", "{\"name\": \"f\"}", "{", "{}", "{\"a\": [1",
        "{\"name\": \"Bob\", \"parameters\": {}}", "{\"name\": \"f\", \"parameters\": 1}",
        "<|python_tag|>", "<|python_tag|>f.call(s=\"x\")",
        "; {\"name\": \"f\", \"parameters\": {}}", "[{\"name\": \"f\", \"parameters\": {}}]",
        "{not json} {\"name\": \"f\", \"parameters\": {}}"})
    expect_text(llama_json, text);
}

TEST(ToolCalls, TextComesAsSoonAsItIsCertain) {
  ToolCallSplitter splitter(hermes, kTools);
  EXPECT_EQ(splitter.push("Hello").said, "Hello");
  EXPECT_EQ(splitter.push(" wor").said, " wor");
  EXPECT_EQ(splitter.push("ld \n").said, "ld");
  EXPECT_EQ(splitter.push("<tool").said, "");
  EXPECT_EQ(splitter.push("s> a").said, " \n<tools> a");
  EXPECT_EQ(splitter.push("<tool_call>{\"name\": \"f\"}").said, "");
  const Part part = splitter.push("</tool_call>");
  EXPECT_EQ(part.calls, (Calls{{"f", "{}"}}));
  EXPECT_EQ(splitter.push("\nmore").said, "more");
  EXPECT_EQ(splitter.push(" ").said, "");
  EXPECT_EQ(splitter.flush().said, " ");
}

TEST(ToolCalls, FlushBeginsAnotherReply) {
  ToolCallSplitter splitter(llama_json, kTools);
  EXPECT_EQ(splitter.push("text").said, "text");
  EXPECT_EQ(splitter.flush().said, "");
  EXPECT_EQ(splitter.push("{\"name\": \"g\", \"parameters\": {}}").calls, (Calls{{"g", "{}"}}));
}

TEST(ToolCalls, WithoutToolsAllIsText) {
  const std::string text = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> ";
  for (const OrderedJson& tools : {OrderedJson(), OrderedJson::array()}) {
    ToolCallSplitter splitter(hermes, tools);
    EXPECT_EQ(splitter.push(text).said, text);
  }
  expect_text(none, text);
}

TEST(ToolCalls, ACallOfMoreThanAMebibyteIsText) {
  const std::string begin = "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"";
  const std::string end = "\"}}</tool_call>";
  const size_t room = (1 << 20) - begin.size() - end.size();
  EXPECT_EQ(split(hermes, begin + std::string(room, 'x') + end, 0, 4096).calls.size(), 1U);
  ToolCallSplitter splitter(hermes, kTools);
  const std::string larger = begin + std::string(room + 1, 'x') + end;
  EXPECT_TRUE(splitter.push(larger).said == larger);  // at once
  EXPECT_EQ(splitter.push("<tool_call>{\"name\": \"g\"}</tool_call>").calls, (Calls{{"g", "{}"}}));
}

TEST(ToolCalls, LongOnes) {
  const auto byte_by_byte = [](ToolFormat format, const std::string& text) {
    return split(format, text, 0, 1);
  };
  const std::string half(500'000, 'x');
  const std::string tagged = "<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"" + half + "\"}}";
  EXPECT_EQ(byte_by_byte(hermes, tagged + "</tool_call>").calls,
            (Calls{{"f", "{\"s\":\"" + half + "\"}"}}));
  EXPECT_EQ(
      byte_by_byte(qwen_xml, "<function=f><parameter=s>" + half + "</parameter></function>").calls,
      (Calls{{"f", "{\"s\": \"" + half + "\"}"}}));
  std::string many = "<function=f>";
  std::string object;
  for (int i = 0; i < 30'000; ++i) {
    const std::string name = "p" + std::to_string(i);
    many += "<parameter=" + name + ">1</parameter>";
    object += (i == 0 ? "\"" : ", \"") + name + "\": 1";
  }
  EXPECT_EQ(byte_by_byte(qwen_xml, many + "</function>").calls, (Calls{{"f", "{" + object + "}"}}));
  // More than 1 MiB without an end, each as bad as it can be for one who looks twice.
  for (const std::string unit : {"x", " ", "<", "<tool_call>", "<![CDATA["}) {
    std::string endless;
    while (endless.size() < 1'200'000) endless += unit;
    for (const auto& [format, begin] :
         {std::pair(hermes, "<tool_call>{\"name\": \""), std::pair(hermes, "<tool_call>"),
          std::pair(minicpm_xml, "<function name=\"f\"><param name=\"s\">"),
          std::pair(qwen_xml, "<tool_call><function=f><parameter=s>"),
          std::pair(llama_json, "{\"name\": \"")}) {
      const std::string text = begin + endless;
      const Part part = byte_by_byte(format, text);
      EXPECT_EQ(part.said == text, true) << begin << unit;
      EXPECT_TRUE(part.calls.empty());
    }
  }
}

}  // namespace
}  // namespace sala
