#include "grammar/tool_call_language.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "grammar/json_schema.h"
#include "text/tool_schemas.h"

namespace sala {
namespace {

constexpr int kMostCalls = 16;

/// How an XML format writes a call.
struct XmlForm {
  std::string begin, name_end, parameter, parameter_name_end, parameter_end, end;
  bool escaped;  ///< texts have no < and &, or are CDATA
};

XmlForm xml_form(ToolFormat format) {
  if (format == ToolFormat::minicpm_xml)
    return {"<function name=\"", "\">", "<param name=\"", "\">", "</param>", "</function>", true};
  return {"<tool_call>\n<function=",   ">\n", "<parameter=", ">\n", "\n</parameter>\n",
          "</function>\n</tool_call>", false};
}

/// Whether a name can stand in every format as it is.
bool is_plain(std::string_view name) {
  return !name.empty() && std::ranges::none_of(name, [](char c) {
    return static_cast<unsigned char>(c) < ' ' ||
           std::string_view("<>&\"\\").find(c) != std::string_view::npos;
  });
}

/// Any text as a parameter's value, and what ends it.
Language free_text(const XmlForm& form) {
  if (!form.escaped) return until(form.parameter_end);
  const CharSet plain = CharSet::all().without({{'<', '<'}, {'&', '&'}});
  return sequence({either({repeated(one_of(plain), 0, kUnbounded),
                           sequence({literal("<![CDATA["), until("]]>")})}),
                   literal(form.parameter_end)});
}

class CallWriter {
 public:
  CallWriter(ToolFormat format, Rules& rules) : format_(format), rules_(rules) {}

  Language call(const std::string& name, const OrderedJson& schema) {
    if (!is_plain(name))
      fail(
          "tools has a function \"{}\"; expected a name without <, >, &, \", \\ and control "
          "characters",
          name.substr(0, 100));
    try {
      if (format_ == ToolFormat::minicpm_xml || format_ == ToolFormat::qwen_xml)
        return xml(name, schema);
      const bool tagged = format_ == ToolFormat::hermes;
      const std::string key = tagged ? "arguments" : "parameters";
      return sequence({literal(fmt::format("{}{{\"name\": \"{}\", \"{}\": ",
                                           tagged ? "<tool_call>\n" : "", name, key)),
                       json_language(schema, rules_), literal(tagged ? "}\n</tool_call>" : "}")});
    } catch (const Error& e) {
      fail("the tool \"{}\" cannot be called for certain: {}", name, e.what());
    }
  }

 private:
  Language xml(const std::string& name, const OrderedJson& schema) {
    const OrderedJson properties = schema.value("properties", OrderedJson::object());
    if (!properties.is_object()) fail("its parameters are not an object with \"properties\"");
    const XmlForm form = xml_form(format_);
    const OrderedJson required = schema.value("required", OrderedJson::array());
    if (!required.is_array()) fail("its parameters have a \"required\" that is not an array");
    std::vector<Language> parts = {literal(form.begin + name + form.name_end)};
    for (const auto& [key, value] : properties.items()) {
      if (!is_plain(key))
        fail("it has a parameter \"{}\"; expected a name without <, >, & and \"", key);
      const Language parameter = sequence({literal(form.parameter + key + form.parameter_name_end),
                                           this->value(value, schema, form)});
      const bool needed = std::ranges::find(required, OrderedJson(key)) != required.end();
      parts.push_back(needed ? parameter : optional(parameter));
    }
    parts.push_back(literal(form.end));
    return sequence(std::move(parts));
  }

  /// A parameter's value, and what ends it.
  Language value(const OrderedJson& schema, const OrderedJson& root, const XmlForm& form) {
    const std::vector<std::string> types = schema_types(schema);
    const bool text = types.empty() || std::ranges::find(types, "string") != types.end();
    if (!text) return sequence({json_language(schema, root, rules_), literal(form.parameter_end)});
    if (!schema.is_object() || !schema.contains("enum") || !schema["enum"].is_array())
      return free_text(form);
    std::vector<Language> choices;
    for (const OrderedJson& one : schema["enum"]) {
      const std::string plain = one.is_string() ? one.get<std::string>() : one.dump();
      const bool quoted = form.escaped && plain.find_first_of("<&") != std::string::npos;
      choices.push_back(literal(quoted ? "<![CDATA[" + plain + "]]>" : plain));
    }
    return sequence({either(std::move(choices)), literal(form.parameter_end)});
  }

  ToolFormat format_;
  Rules& rules_;
};

}  // namespace

Language tool_call_language(ToolFormat format, const OrderedJson& tools, const std::string& only,
                            bool several, Rules& rules) {
  if (format == ToolFormat::none)
    fail("this model's chat template shows no way to call tools that is known here");
  CallWriter writer(format, rules);
  std::vector<Language> calls;
  for (const OrderedJson& tool : tools) {
    const OrderedJson& function = tool.contains("function") ? tool["function"] : tool;
    const auto named = function.is_object() ? function.find("name") : function.end();
    if (named == function.end() || !named->is_string())
      fail("tools has {}; expected a function with a \"name\"",
           tool.dump(-1, ' ', true).substr(0, 100));
    const auto name = named->get<std::string>();
    if (!only.empty() && name != only) continue;
    OrderedJson schema = function.value("parameters", OrderedJson());
    if (!schema.is_object()) schema = {{"type", "object"}, {"properties", OrderedJson::object()}};
    calls.push_back(writer.call(name, schema));
  }
  if (calls.empty()) fail("there is no tool \"{}\" among the tools", only.substr(0, 100));
  const Language one = rule(rules.add(either(std::move(calls))));
  if (!several) return one;
  const Language more = sequence({literal(format == ToolFormat::llama_json ? "; " : "\n"), one});
  return sequence({one, repeated(more, 0, kMostCalls - 1)});
}

}  // namespace sala
