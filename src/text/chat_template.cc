#include "text/chat_template.h"

#include "base/error.h"
#include "base/json.h"
#include "text/jinja/errors.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/json_fields.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr size_t kMaxSource = 1 << 20;

jinja::Template parse_named(std::string_view source, const std::string& name) {
  if (source.size() > kMaxSource)
    fail("{}: the template has {} bytes, more than the {} that are accepted", name, source.size(),
         kMaxSource);
  if (const size_t bad = find_invalid_utf8(source); bad < source.size())
    fail("{}: byte {} is not UTF-8; save the template as UTF-8", name, bad);
  try {
    return jinja::parse(source);
  } catch (const jinja::LineError& e) {
    fail("{}:{}: {}", name, e.line(), e.what());
  }
}

OrderedJson quoted(const Tokenizer& tokenizer, const OrderedJson& json) {
  if (json.is_string()) return tokenizer.quote(json.get_ref<const std::string&>());
  if (!json.is_structured()) return json;
  OrderedJson all(json.type());
  for (const auto& [key, value] : json.items()) {
    if (json.is_array())
      all.push_back(quoted(tokenizer, value));
    else
      all[tokenizer.quote(key)] = quoted(tokenizer, value);
  }
  return all;
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Template parsed;
  std::string name;
  SpecialTokens special_tokens;
  bool knows_thoughts;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string name,
                           SpecialTokens special_tokens) {
  auto parsed = parse_named(source, name);
  impl_ = std::make_unique<const Impl>(Impl{std::move(parsed), std::move(name),
                                            std::move(special_tokens),
                                            source.find("<think>") != std::string_view::npos});
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

Thought ChatTemplate::thought_behind(std::string_view prompt) const {
  if (!impl_->knows_thoughts) return Thought::none;
  prompt = prompt.substr(0, prompt.find_last_not_of(" \t\r\n") + 1);
  return prompt.ends_with("<think>")    ? Thought::begun
         : prompt.ends_with("</think>") ? Thought::none  // where thinking is switched off
                                        : Thought::possible;
}

std::string ChatTemplate::render(const OrderedJson& messages, const OrderedJson& tools,
                                 bool add_generation_prompt, const OrderedJson& variables) const {
  using jinja::Value;
  try {
    jinja::Dict context;
    for (const auto& [key, value] : impl_->special_tokens) context.set(Value(key), Value(value));
    context.set("messages", jinja::from_json(messages));
    context.set("tools", jinja::from_json(tools));
    context.set("documents", Value());
    context.set("add_generation_prompt", Value(add_generation_prompt));
    if (variables.is_object())
      for (const auto& [key, value] : variables.items())
        context.set(Value(key), jinja::from_json(value));
    return jinja::Interpreter(impl_->parsed, context).run();
  } catch (const jinja::LineError& e) {
    fail("{}:{}: {}", impl_->name, e.line(), e.what());
  } catch (const Error& e) {
    fail("{}: {}", impl_->name, e.what());
  }
}

std::string ChatTemplate::render_for(const Tokenizer& tokenizer, const OrderedJson& messages,
                                     const OrderedJson& tools, bool add_generation_prompt,
                                     const OrderedJson& variables) const {
  return render(quoted(tokenizer, messages), quoted(tokenizer, tools), add_generation_prompt,
                quoted(tokenizer, variables));
}

namespace {

/// The texts of a directory's special tokens, as templates name them.
ChatTemplate::SpecialTokens read_special_tokens(const std::filesystem::path& directory) {
  ChatTemplate::SpecialTokens tokens;
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const auto path = directory / file;
    if (!std::filesystem::exists(path)) continue;
    const Json json = read_json(path);
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token",
                            "cls_token", "mask_token"}) {
      const Json& value = field(json, key, path.string());
      if (value.is_string()) tokens[key] = value.get<std::string>();
      if (value.is_object())
        tokens[key] = string_field(value, "content", path.string() + ": " + key);
    }
  }
  return tokens;
}

/// "chat_template" of tokenizer_config.json: the source, or of a list of named ones the default.
std::optional<std::string> read_configured(const Json& json, const std::string& where) {
  if (json.is_null()) return std::nullopt;
  if (json.is_string()) return json.get<std::string>();
  if (!json.is_array())
    fail("{}: 'chat_template' is {}, expected a string or a list", where, json.type_name());
  for (const Json& each : json)
    if (string_field(each, "name", where) == "default")
      return string_field(each, "template", where);
  fail("{}: 'chat_template' is a list of {} templates without one named 'default'; name one so",
       where, json.size());
}

}  // namespace

std::optional<ChatTemplate> load_chat_template(const std::filesystem::path& directory) {
  if (const auto path = directory / "chat_template.jinja"; std::filesystem::exists(path))
    return ChatTemplate(read_text(path), path.string(), read_special_tokens(directory));
  const auto path = directory / "tokenizer_config.json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  const std::string where = path.string() + ": chat_template";
  const auto source =
      read_configured(field(read_json(path), "chat_template", path.string()), where);
  if (!source) return std::nullopt;
  return ChatTemplate(*source, where, read_special_tokens(directory));
}

}  // namespace sala
