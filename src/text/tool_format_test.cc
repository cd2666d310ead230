#include <gtest/gtest.h>

#include "base/json.h"
#include "text/chat_template.h"
#include "text/tool_calls.h"

namespace sala {
namespace {

using enum ToolFormat;

const OrderedJson kTools = OrderedJson::parse(R"([{"type": "function", "function": {
    "name": "f", "parameters": {"properties": {"s": {"type": "string"}, "i": {"type": "integer"},
    "b": {"type": "boolean"}, "z": {"type": "null"}}}}}])");

// Templates that write calls as those of the models do.

constexpr const char* kTurn = R"(
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}{% set call = call.function %}CALL{% endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %})";

std::string with_call(const std::string& tools, const std::string& call) {
  std::string turn = kTurn;
  return tools + turn.replace(turn.find("CALL"), 4, call);
}

const std::string kList =
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>";

const std::string kHermes =
    with_call(kList +
                  R"(<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>{% endif %})",
              R"({{ '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
{%- if call.arguments is string %}{{ call.arguments }}
{%- else %}{{ call.arguments | tojson }}{% endif %}
{{- '}\n</tool_call>' }})");

const std::string kMiniCpm = with_call(
    kList +
        R"(<function name="function-name"><param name="param-name">value</param></function>
{%- endif %})",
    R"({{ '<function name="' ~ call.name ~ '">' }}
{%- for key, value in call.arguments | items %}
{%- if value is not string %}{% set value = value | tojson %}{% endif %}
{%- if '<' in value or '&' in value or '\n' in value %}
{%- set value = '<![CDATA[' ~ value ~ ']]>' %}
{%- endif %}
{{- '<param name="' ~ key ~ '">' ~ value ~ '</param>' }}
{%- endfor %}{{ '</function>' }})");

const std::string kQwenCoder = with_call(kList +
                                             "<tool_call>\n<function=name>\n<parameter=p>\nvalue\n<"
                                             "/parameter>\n</function>\n</tool_call>{% endif %}",
                                         R"({{ '\n<tool_call>\n<function=' ~ call.name ~ '>\n' }}
{%- for key, value in call.arguments | items %}
{%- if value is mapping or (value is iterable and value is not string) %}
{%- set value = value | tojson %}
{%- else %}{% set value = value | string %}{% endif %}
{{- '<parameter=' ~ key ~ '>\n' ~ value ~ '\n</parameter>\n' }}
{%- endfor %}{{ '</function>\n</tool_call>' }})");

const std::string kLlama = R"({{ bos_token }}
{%- if tools %}{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}
{%- for message in messages %}
{{- '<|head|>' + message.role + '<|end|>\n\n' }}
{%- if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}' }}
{%- else %}{{ message.content | trim }}{% endif %}
{{- '<|eot|>' }}
{%- endfor %})";

TEST(ToolFormat, IsHowATemplateWritesCalls) {
  const auto format = [](const std::string& source) {
    return tool_format_of(ChatTemplate(source, "t.jinja", {{"bos_token", "<s>"}}));
  };
  EXPECT_EQ(format(kHermes), hermes);
  EXPECT_EQ(format(kMiniCpm), minicpm_xml);
  EXPECT_EQ(format(kQwenCoder), qwen_xml);
  EXPECT_EQ(format(kLlama), llama_json);
  // Arguments as text only.
  EXPECT_EQ(format(with_call("",
                             "<tool_call>{\"name\": \"{{ call.name }}\", \"arguments\": "
                             "{{ '' + call.arguments }}}</tool_call>")),
            hermes);
}

TEST(ToolFormat, MayBeWrittenTwice) {
  const std::string twice = with_call("", "{{ c }}{{ c }}");
  const std::string call =
      "{% set c %}<function name=\"{{ call.name }}\"><param name=\"place\">"
      "{{ call.arguments.place }}</param></function>{% endset %}";
  std::string source = twice;
  source.insert(source.find("{{ c }}"), call);
  EXPECT_EQ(tool_format_of(ChatTemplate(source, "t.jinja")), minicpm_xml);
}

TEST(ToolFormat, IsElseHowATemplateDescribesCalls) {
  const auto format = [](const std::string& source) {
    return tool_format_of(ChatTemplate(source, "t.jinja"));
  };
  const std::string end = "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
  EXPECT_EQ(format(kList + "<tool_call>\n{\"name\": <name>}\n</tool_call>" + end), hermes);
  EXPECT_EQ(format(kList + "<function name=\"n\"><param name=\"p\">v</param></function>" + end),
            minicpm_xml);
  EXPECT_EQ(
      format(kList + "<tool_call><function=n><parameter=p>v</parameter></function></tool_call>" +
             end),
      qwen_xml);
  EXPECT_EQ(format(kList + "{{ raise_exception('no') if messages | length > 1 }}<tool_call>" + end),
            hermes);
}

TEST(ToolFormat, MayBeUnknown) {
  const auto format = [](const std::string& source) {
    return tool_format_of(ChatTemplate(source, "t.jinja"));
  };
  EXPECT_EQ(format("{% for m in messages %}{{ m.content }}{% endfor %}"), none);
  EXPECT_EQ(format("{{ raise_exception('no') }}"), none);
  EXPECT_EQ(format(kList + "{% endif %}" +
                   with_call("",
                             "[TOOL_CALLS][{\"name\": \"{{ call.name }}\", \"arguments\": "
                             "{{ call.arguments | tojson }}}]")),
            none);
  // Llama 3.1's other way.
  EXPECT_EQ(format(kList + "<function=example>{\"a\": 1}</function>{% endif %}"), none);
}

TEST(ToolCalls, ComeBackOutOfTemplates) {
  const OrderedJson arguments = OrderedJson::parse(
      R"({"s": "a <b> & \"c\"\n\né", "i": 3, "n": 1.5, "b": true, "z": null,
          "o": {"x": [1, null]}})");
  for (const auto& [format, source] :
       {std::pair(hermes, kHermes), std::pair(minicpm_xml, kMiniCpm),
        std::pair(qwen_xml, kQwenCoder), std::pair(llama_json, kLlama)}) {
    const ChatTemplate chat(source, "t.jinja", {{"bos_token", "<s>"}});
    const OrderedJson call = {{"function", {{"name", "f"}, {"arguments", arguments}}}};
    OrderedJson messages = OrderedJson::array({{{"role", "user"}, {"content", "Hi"}}});
    const size_t before = chat.render(messages, kTools, false, nullptr).size();
    messages.push_back(
        {{"role", "assistant"}, {"content", ""}, {"tool_calls", OrderedJson::array({call})}});
    if (format != llama_json) messages[1]["tool_calls"].push_back(call);
    std::string turn = chat.render(messages, kTools, false, nullptr).substr(before);
    turn.erase(0, turn.find("\n\n") + 2);
    turn.erase(turn.rfind("<|"));
    if (format != llama_json) turn.erase(0, turn.find("</think>\n\n") == 0 ? 10 : 0);

    ToolCallSplitter splitter(format, kTools);
    const auto part = splitter.push(turn);
    EXPECT_EQ(part.said, "") << turn;
    ASSERT_EQ(part.calls.size(), format == llama_json ? 1U : 2U) << turn;
    for (const ToolCall& each : part.calls) {
      EXPECT_EQ(each.name, "f");
      EXPECT_EQ(parse_ordered_json(each.arguments, "call"), arguments) << turn;
    }
  }
}

}  // namespace
}  // namespace sala
