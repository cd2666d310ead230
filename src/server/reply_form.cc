#include "server/reply_form.h"

#include <utility>

#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "grammar/pattern.h"
#include "server/request_fields.h"

namespace sala {
namespace {

ReplyForm form_of_schema(const std::string& param, const OrderedJson& schema) {
  ReplyForm form{.kind = ReplyForm::Kind::json, .param = param, .schema = schema};
  if (!schema.is_string()) return form;
  try {  // some clients send it as text
    form.schema = parse_ordered_json(schema.get_ref<const std::string&>(), param);
  } catch (const Error& e) {
    refuse(param, e.what());
  }
  return form;
}

ReplyForm form_of_text(ReplyForm::Kind kind, const std::string& param, const OrderedJson& text) {
  if (!text.is_string())
    refuse(param, fmt::format("{} is {}; expected a text", param, shown(text)));
  return {.kind = kind, .param = param, .text = text.get<std::string>()};
}

ReplyForm form_of_choices(const std::string& param, const OrderedJson& choices) {
  ReplyForm form{.kind = ReplyForm::Kind::choice, .param = param};
  constexpr size_t kMost = 10'000;
  if (!choices.is_array() || choices.empty() || choices.size() > kMost)
    refuse(param, fmt::format("{} is {}; expected an array of 1 to {} texts", param, shown(choices),
                              kMost));
  for (const OrderedJson& one : choices)
    form.choices.push_back(form_of_text(ReplyForm::Kind::choice, param, one).text);
  return form;
}

/// vLLM's names of the forms, as they are in structured_outputs.
ReplyForm form_named(const std::string& name, const std::string& param, const OrderedJson& value) {
  if (name == "json") return form_of_schema(param, value);
  if (name == "regex") return form_of_text(ReplyForm::Kind::regex, param, value);
  if (name == "grammar") return form_of_text(ReplyForm::Kind::grammar, param, value);
  if (name == "choice") return form_of_choices(param, value);
  refuse(param,
         fmt::format("{} is given; expected json, regex, choice, grammar or json_object", param));
}

ReplyForm form_of_structured_outputs(const OrderedJson& outputs) {
  ReplyForm form;
  for (const auto& [name, value] : outputs.items()) {
    if (value.is_null()) continue;
    const std::string param = "structured_outputs." + name;
    if (name.starts_with("disable_") || name == "whitespace_pattern") continue;  // how, not what
    if (name != "json_object")
      set_form(form, form_named(name, param, value));
    else if (value == true)
      set_form(form, form_of_schema(param, any_object_schema()));
  }
  return form;
}

}  // namespace

void set_form(ReplyForm& form, ReplyForm other) {
  if (other.kind == ReplyForm::Kind::any) return;
  if (form.kind != ReplyForm::Kind::any)
    refuse(other.param, fmt::format("{} and {}; send one", form.param, other.param));
  form = std::move(other);
}

ReplyForm form_of_format(const std::string& param, const OrderedJson& format) {
  const std::string type = type_of(format);
  if (type == "text") return {};
  if (type == "json_object")  // llama-server's may have a schema
    return form_of_schema(param,
                          format.contains("schema") ? format["schema"] : any_object_schema());
  if (type == "json_schema") {
    const bool inside = format.contains("json_schema") && format["json_schema"].is_object();
    const OrderedJson& about = inside ? format["json_schema"] : format;
    if (about.contains("schema"))
      return form_of_schema(param + (inside ? ".json_schema.schema" : ".schema"), about["schema"]);
  }
  refuse(param,
         fmt::format("{} is {}; expected {{\"type\": \"text\"}}, {{\"type\": \"json_object\"}} or "
                     "{{\"type\": \"json_schema\"}} with a schema",
                     param, shown(format)));
}

ReplyForm reply_form(const OrderedJson& json) {
  const Fields fields(json);
  ReplyForm form;
  if (const OrderedJson* format = fields.find("response_format"))
    set_form(form, form_of_format("response_format", *format));
  if (const OrderedJson* outputs = fields.object("structured_outputs"))
    set_form(form, form_of_structured_outputs(*outputs));
  for (const char* name : {"json", "regex", "choice", "grammar"}) {
    const std::string param = std::string("guided_") + name;
    if (const OrderedJson* value = fields.find(param.c_str()))
      set_form(form, form_named(name, param, *value));
  }
  if (const OrderedJson* schema = fields.find("json_schema"))
    set_form(form, form_of_schema("json_schema", *schema));
  if (const OrderedJson* grammar = fields.find("grammar"); grammar != nullptr && *grammar != "")
    set_form(form, form_of_text(ReplyForm::Kind::grammar, "grammar", *grammar));
  return form;
}

Language language_of(const ReplyForm& form, Rules& rules) {
  try {
    switch (form.kind) {
      case ReplyForm::Kind::json:
        return json_language(form.schema, rules);
      case ReplyForm::Kind::regex:
        return parse_pattern(form.text, true);
      case ReplyForm::Kind::grammar:
        return parse_gbnf(form.text, rules);
      case ReplyForm::Kind::choice:
      case ReplyForm::Kind::any:
        break;
    }
  } catch (const Error& e) {
    refuse(form.param, fmt::format("{}: {}", form.param, e.what()));
  }
  std::vector<Language> choices;
  for (const std::string& one : form.choices) choices.push_back(literal(one));
  return either(std::move(choices));
}

}  // namespace sala
