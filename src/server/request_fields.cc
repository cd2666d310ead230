#include "server/request_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sala {
namespace {

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
  if (asks("functions") != nullptr)
    refuse("functions", "functions is given, which OpenAI has given up; send tools");
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

}  // namespace

void refuse(const std::string& param, const std::string& message) {
  throw ApiError(400, message, param, "invalid_value");
}

std::string type_of(const OrderedJson& json) {
  const auto at = json.is_object() ? json.find("type") : json.end();
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}

void Fields::boolean(const char* name, bool& value) const {
  const OrderedJson* field = find(name);
  if (field == nullptr) return;
  if (!field->is_boolean())
    refuse(where_ + name,
           fmt::format("{}{} is {}; expected true or false", where_, name, shown(*field)));
  value = field->get<bool>();
}

void Fields::text(const char* name, std::string& value) const {
  const OrderedJson* field = find(name);
  if (field == nullptr) return;
  if (!field->is_string())
    refuse(where_ + name, fmt::format("{}{} is {}; expected a text", where_, name, shown(*field)));
  value = field->get<std::string>();
}

std::string Fields::text(const char* name) const {
  if (find(name) == nullptr)
    refuse(where_ + name, fmt::format("{}{} is missing; expected a text", where_, name));
  std::string value;
  text(name, value);
  return value;
}

const OrderedJson* Fields::array(const char* name) const {
  const OrderedJson* field = find(name);
  if (field != nullptr && !field->is_array())
    refuse(where_ + name,
           fmt::format("{}{} is {}; expected an array", where_, name, shown(*field)));
  return field;
}

const OrderedJson* Fields::object(const char* name) const {
  const OrderedJson* field = find(name);
  if (field != nullptr && !field->is_object())
    refuse(where_ + name,
           fmt::format("{}{} is {}; expected an object", where_, name, shown(*field)));
  return field;
}

const OrderedJson& Fields::filled_array(const char* name, const char* expected) const {
  const OrderedJson* field = find(name);
  if (field == nullptr || !field->is_array() || field->empty())
    refuse(where_ + name, fmt::format("{}{} is {}; expected {}", where_, name,
                                      field == nullptr    ? "missing"
                                      : field->is_array() ? "empty"
                                                          : shown(*field),
                                      expected));
  return *field;
}

std::string content_text(const std::string& where, const OrderedJson& content,
                         const char* between) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array())
    refuse(where, where + " is " + shown(content) + "; expected a text or an array of parts");
  std::string text;
  for (const OrderedJson& part : content) {
    const std::string type = type_of(part);
    if ((type != "text" && type != "input_text" && type != "output_text") ||
        !part.contains("text") || !part["text"].is_string())
      refuse(where, where + " has a part " + shown(part) + "; this model reads texts only");
    if (&part != &content.front()) text += between;
    text += part["text"].get<std::string>();
  }
  return text;
}

std::vector<std::string> stops_of(const char* name, const OrderedJson& field) {
  std::vector<std::string> stops;
  for (const OrderedJson& one : field.is_array() ? field : OrderedJson::array({field})) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty() ||
        one.get_ref<const std::string&>().size() > 1024)
      refuse(name, fmt::format("{} is a text of 1 to 1024 bytes, or an array of such texts; "
                               "found {}",
                               name, shown(one)));
    stops.push_back(one.get<std::string>());
  }
  if (std::ssize(stops) > kMostStops)
    refuse(name, fmt::format("{} has {} texts; at most {}", name, stops.size(), kMostStops));
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
  int64_t thought = -1;  // which says nothing
  for (const char* name : {"thinking_token_budget", "thinking_budget_tokens"})  // vLLM, llama.cpp
    fields.number(name, -1, kMost, thought);
  if (thought >= 0) c.reply.thought_limit = thought;
  fields.number("n", 1, kMostChoices, c.n);
  fields.boolean("stream", c.stream);
  fields.boolean("ignore_eos", c.ignore_eos);
  fields.text("prompt_cache_key", c.session);
  if (const OrderedJson* stop = fields.find("stop")) c.reply.stop_strings = stops_of("stop", *stop);
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
  c.form = reply_form(json);
  refuse_what_is_not_there(json, c.n);
}

void require_one(const Completion& completion) {
  if (completion.n > 1)
    refuse("n", fmt::format("n is {}; /v1/chat/completions gives several replies, this path one",
                            completion.n));
}

OrderedJson function_of(const Fields& tool, const char* schema) {
  OrderedJson function = {{"name", tool.text("name")}};
  std::string about;
  tool.text("description", about);
  if (!about.empty()) function["description"] = about;
  if (const OrderedJson* parameters = tool.object(schema)) function["parameters"] = *parameters;
  return {{"type", "function"}, {"function", function}};
}

void read_functions(const Fields& fields, const char* schema,
                    bool (*is_function)(std::string_view type), ChatCompletion& chat) {
  const OrderedJson* tools = fields.array("tools");
  for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
    const OrderedJson& tool = (*tools)[i];
    const std::string where = fmt::format("tools[{}]", i);
    if (!tool.is_object()) refuse(where, where + " is " + shown(tool) + "; expected an object");
    if (is_function(type_of(tool))) chat.tools.push_back(function_of(Fields(tool, where), schema));
  }
}

namespace {

void choose_tools(const OrderedJson& choice, ChatCompletion& chat) {
  const std::string word = choice.is_string() ? choice.get<std::string>() : type_of(choice);
  if (word == "none") {
    chat.tools = nullptr;  // what the model is not shown it does not call
  } else if (word == "required" || word == "any") {
    chat.must_call = true;
  } else if (word == "function" || word == "tool") {
    chat.must_call = true;
    const OrderedJson* function = Fields(choice, "tool_choice").object("function");
    chat.must_call_tool = function != nullptr
                              ? Fields(*function, "tool_choice.function").text("name")
                              : Fields(choice, "tool_choice").text("name");
  } else if (word != "auto") {
    refuse("tool_choice", "tool_choice is " + shown(choice) +
                              "; expected \"auto\", \"none\", \"required\" or one tool");
  }
  if (chat.must_call && chat.tools.is_null())
    refuse("tool_choice", "tool_choice is " + shown(choice) + ", and there are no tools to call");
}

}  // namespace

void read_tool_choice(const Fields& fields, ChatCompletion& chat) {
  if (const OrderedJson* choice = fields.find("tool_choice")) choose_tools(*choice, chat);
  bool several = true;
  fields.boolean("parallel_tool_calls", several);
  chat.one_call = !several;
}

void set_thinking(ChatCompletion& chat, bool thinking) {
  if (!chat.variables.contains("enable_thinking")) chat.variables["enable_thinking"] = thinking;
}

}  // namespace sala
