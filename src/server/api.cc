#include "server/api.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

namespace sala {
namespace {

[[noreturn]] void refuse(const std::string& param, const std::string& message) {
  throw ApiError(400, message, param, "invalid_value");
}

std::string shown(const OrderedJson& json) {
  std::string text = json.dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

/// The word that says what kind of thing an object is, empty where it has none.
std::string type_of(const OrderedJson& json) {
  const auto at = json.is_object() ? json.find("type") : json.end();
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}

/// The fields of an object, each checked; null counts as absent.
class Fields {
 public:
  explicit Fields(const OrderedJson& json) : json_(json) {}

  const OrderedJson* find(const char* name) const {
    const auto at = json_.find(name);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  template <class T>
  void number(const char* name, double low, double high, T& value) const {
    const OrderedJson* field = find(name);
    if (field == nullptr) return;
    const bool whole = std::is_integral_v<T>;
    if (!field->is_number() || (whole && !field->is_number_integer()) ||
        !(field->get<double>() >= low && field->get<double>() <= high))
      refuse(name, fmt::format("{} is {}; expected a {}number from {} to {}", name, shown(*field),
                               whole ? "whole " : "", low, high));
    value = field->get<T>();
  }
  void boolean(const char* name, bool& value) const {
    const OrderedJson* field = find(name);
    if (field == nullptr) return;
    if (!field->is_boolean())
      refuse(name, fmt::format("{} is {}; expected true or false", name, shown(*field)));
    value = field->get<bool>();
  }
  void text(const char* name, std::string& value) const {
    const OrderedJson* field = find(name);
    if (field == nullptr) return;
    if (!field->is_string())
      refuse(name, fmt::format("{} is {}; expected a text", name, shown(*field)));
    value = field->get<std::string>();
  }

 private:
  const OrderedJson& json_;
};

std::vector<std::string> stops_of(const OrderedJson& field) {
  std::vector<std::string> stops;
  for (const OrderedJson& one : field.is_array() ? field : OrderedJson::array({field})) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty() ||
        one.get_ref<const std::string&>().size() > 1024)
      refuse("stop",
             "stop is a text of 1 to 1024 bytes, or an array of such texts; found " + shown(one));
    stops.push_back(one.get<std::string>());
  }
  if (std::ssize(stops) > kMostStops)
    refuse("stop", fmt::format("stop has {} texts; at most {}", stops.size(), kMostStops));
  return stops;
}

std::vector<int> ids_of(const char* name, const OrderedJson& list) {
  std::vector<int> ids;
  ids.reserve(list.size());
  for (const OrderedJson& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() > std::numeric_limits<int>::max())
      refuse(name, fmt::format("{} has {} among its token ids", name, shown(id)));
    ids.push_back(id.get<int>());
  }
  return ids;
}

/// Whether a value asks for nothing, of whatever a field may ask for.
bool asks_nothing(const OrderedJson& value) {
  return value.empty() || value == "" || value == false || value == 0;
}

/// Refuses what a client must not believe to have got.
void refuse_what_is_not_there(const OrderedJson& json, int n) {
  const Fields fields(json);
  const auto asks = [&](const char* name) {
    const OrderedJson* field = fields.find(name);
    return field != nullptr && !asks_nothing(*field) ? field : nullptr;
  };
  for (const char* name : {"guided_json", "guided_regex", "guided_choice", "guided_grammar",
                           "structured_outputs", "grammar", "json_schema"})
    if (asks(name) != nullptr)
      refuse(name, fmt::format("{} is given; this server does not constrain what it writes", name));
  if (const OrderedJson* format = fields.find("response_format"))
    if (type_of(*format) != "text")
      refuse("response_format", "response_format is " + shown(*format) +
                                    "; this server writes text only and does not constrain it");
  if (const OrderedJson* choice = fields.find("tool_choice"))
    if (*choice != "auto" && *choice != "none")
      refuse("tool_choice", "tool_choice is " + shown(*choice) +
                                "; expected \"auto\" or \"none\": no call can be forced here");
  if (asks("suffix") != nullptr)
    refuse("suffix", "suffix is given; this server writes behind a prompt only");
  if (asks("min_tokens") != nullptr)
    refuse("min_tokens", "min_tokens is given; ignore_eos with max_tokens gives a fixed length");
  int best = n;
  fields.number("best_of", 0, 1e9, best);
  if (best > n)
    refuse("best_of",
           fmt::format("best_of is {}; this server gives all it writes: n is {}", best, n));
}

void read_common(const OrderedJson& json, const SamplingParams& defaults, Completion& c) {
  const Fields fields(json);
  SamplingParams& s = c.reply.sampling;
  s = defaults;
  fields.text("model", c.model);
  fields.number("temperature", 0.0, 100.0, s.temperature);
  fields.number("top_p", 0.0, 1.0, s.top_p);
  fields.number("min_p", 0.0, 1.0, s.min_p);
  fields.number("top_k", -1, 1e9, s.top_k);
  s.top_k = std::max<int64_t>(s.top_k, 0);  // some clients write -1 for "all"
  fields.number("presence_penalty", -2.0, 2.0, s.presence_penalty);
  fields.number("frequency_penalty", -2.0, 2.0, s.frequency_penalty);
  fields.number("repetition_penalty", 1e-4, 1e4, s.repetition_penalty);
  int64_t seed = static_cast<int64_t>(s.seed);
  fields.number("seed", -9.3e18, 9.3e18, seed);
  s.seed = static_cast<uint64_t>(seed);
  if (const OrderedJson* bias = fields.find("logit_bias")) {
    if (!bias->is_object() || bias->size() > 1024)
      refuse("logit_bias", "logit_bias is an object of at most 1024 token ids with numbers");
    for (const auto& [id, value] : bias->items()) {
      const bool digits =
          !id.empty() && id.size() < 9 &&
          std::ranges::all_of(id, [](char digit) { return digit >= '0' && digit <= '9'; });
      if (!digits || !value.is_number() || !(std::abs(value.get<double>()) <= 100.0))
        refuse(
            "logit_bias",
            fmt::format("logit_bias has {}: {}; expected a token id with a number from -100 to 100",
                        id.substr(0, 20), shown(value)));
      s.logit_bias.emplace_back(std::stoi(id), value.get<double>());
    }
  }
  int64_t limit = -1;
  constexpr double kMost = 1 << 30;
  fields.number("max_tokens", 0, kMost, limit);
  fields.number("max_completion_tokens", 0, kMost, limit);
  // llama.cpp's name, where -1 says nothing.
  if (limit < 0) fields.number("n_predict", -1, kMost, limit);
  if (limit >= 0) c.limit = limit;
  fields.number("n", 1, kMostChoices, c.n);
  fields.boolean("stream", c.stream);
  fields.boolean("ignore_eos", c.ignore_eos);
  fields.text("prompt_cache_key", c.session);
  if (const OrderedJson* stop = fields.find("stop")) c.reply.stop_strings = stops_of(*stop);
  if (const OrderedJson* ids = fields.find("stop_token_ids")) {
    if (!ids->is_array() || std::ssize(*ids) > kMostStops)
      refuse("stop_token_ids",
             fmt::format("stop_token_ids is an array of at most {} token ids", kMostStops));
    c.stop_tokens = ids_of("stop_token_ids", *ids);
  }
  if (const OrderedJson* options = fields.find("stream_options")) {
    if (!options->is_object()) refuse("stream_options", "stream_options is not an object");
    Fields(*options).boolean("include_usage", c.usage_in_stream);
    Fields(*options).boolean("continuous_usage_stats", c.usage_in_every_piece);
  }
  refuse_what_is_not_there(json, c.n);
}

/// A content: a text, parts that are texts, or null, which is an empty one.
std::string content_text(const std::string& where, const OrderedJson& content) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array())
    refuse(where, where + " is " + shown(content) + "; expected a text or an array of parts");
  std::string text;
  for (const OrderedJson& part : content) {
    const std::string type = type_of(part);
    if ((type != "text" && type != "input_text") || !part.contains("text") ||
        !part["text"].is_string())
      refuse(where, where + " has a part " + shown(part) + "; this model reads texts only");
    text += part["text"].get<std::string>();
  }
  return text;
}

}  // namespace

OrderedJson parse_body(const std::string& body) {
  try {
    OrderedJson json = parse_ordered_json(body, "the body");
    if (!json.is_object()) refuse("", "the body is not a JSON object");
    return json;
  } catch (const ApiError&) {
    throw;
  } catch (const Error& e) {
    throw ApiError(400, e.what(), {}, "invalid_json");
  }
}

ChatCompletion parse_chat(const std::string& body, const SamplingParams& defaults) {
  OrderedJson json = parse_body(body);
  ChatCompletion c;
  read_common(json, defaults, c);
  const Fields fields(json);
  fields.boolean("logprobs", c.logprobs);
  int64_t top = 0;
  fields.number("top_logprobs", 0, kMostLogprobs, top);
  if (top > 0 && !c.logprobs) refuse("top_logprobs", "top_logprobs wants logprobs to be true");
  if (c.logprobs) c.reply.logprobs = top;
  bool echo = false;
  fields.boolean("echo", echo);
  if (echo) refuse("echo", "echo is for /v1/completions; a chat answers with its reply only");
  const OrderedJson* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    refuse("messages", fmt::format("messages is {}; expected an array of at least one message",
                                   messages == nullptr    ? "missing"
                                   : messages->is_array() ? "empty"
                                                          : shown(*messages)));
  c.messages = *messages;
  for (size_t i = 0; i < c.messages.size(); ++i) {
    OrderedJson& message = c.messages[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      refuse("messages",
             fmt::format("messages[{}] is {}; expected an object with a role and a content", i,
                         shown(message)));
    if (message["role"] == "developer") message["role"] = "system";
    OrderedJson& content = message["content"];
    content = content_text(fmt::format("messages[{}].content", i), content);
  }
  if (const OrderedJson* prediction = fields.find("prediction")) {
    if (type_of(*prediction) != "content" || !prediction->contains("content"))
      refuse("prediction", "prediction is " + shown(*prediction) +
                               R"(; expected {"type": "content", "content": TEXT})");
    c.expected = content_text("prediction.content", (*prediction)["content"]);
  }
  if (const OrderedJson* tools = fields.find("tools")) {
    if (!tools->is_array()) refuse("tools", "tools is not an array");
    c.tools = OrderedJson::array();
    for (const OrderedJson& tool : *tools)  // the template knows functions only
      if (type_of(tool) == "function") c.tools.push_back(tool);
    if (c.tools.empty()) c.tools = nullptr;
  }
  c.variables = OrderedJson::object();
  if (const OrderedJson* variables = fields.find("chat_template_kwargs")) {
    if (!variables->is_object())
      refuse("chat_template_kwargs", "chat_template_kwargs is not an object");
    c.variables = *variables;
  }
  std::string effort;
  fields.text("reasoning_effort", effort);
  if (effort == "none" && !c.variables.contains("enable_thinking"))
    c.variables["enable_thinking"] = false;
  return c;
}

TextCompletion parse_text(const std::string& body, const SamplingParams& defaults) {
  const OrderedJson json = parse_body(body);
  TextCompletion c;
  read_common(json, defaults, c);
  const Fields fields(json);
  fields.boolean("echo", c.echo);
  int64_t top = -1;
  fields.number("logprobs", 0, kMostLogprobs, top);
  c.logprobs = top >= 0;
  c.reply.logprobs = top;
  if (!c.limit) c.limit = 16;  // as OpenAI's
  const OrderedJson* prompt = fields.find("prompt");
  if (prompt == nullptr) refuse("prompt", "prompt is missing");
  const auto add = [&](const OrderedJson& one) {
    if (one.is_string())
      c.prompts.push_back({.text = one.get<std::string>(), .tokens = {}});
    else if (one.is_array() && !one.empty())
      c.prompts.push_back({.text = {}, .tokens = ids_of("prompt", one)});
    else
      refuse("prompt",
             "prompt is " + shown(one) + "; expected a text, token ids, or an array of these");
  };
  const bool list = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (list)
    for (const OrderedJson& one : *prompt) add(one);
  else
    add(*prompt);
  if (std::ssize(c.prompts) * c.n > kMostPrompts)
    refuse("prompt", fmt::format("prompt asks for {} completions; at most {}",
                                 std::ssize(c.prompts) * c.n, kMostPrompts));
  return c;
}

}  // namespace sala
