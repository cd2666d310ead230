#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/json_progress.h"
#include "text/tool_call_reader.h"

namespace sala {
namespace {

/// The arguments as an object's own bytes, from `json`: an object, a string that holds one, or
/// nothing at all (also as null or an empty string).
std::optional<std::string> arguments_of(std::string_view json) {
  if (json.empty() || json == "null") return "{}";
  if (json.front() == '{') return std::string(json);
  if (json.front() != '"') return std::nullopt;
  const std::string held = OrderedJson::parse(json).get<std::string>();
  const std::string_view text = trim_json_space(held);
  if (text.empty()) return "{}";
  try {
    if (!parse_ordered_json(text, "a call's arguments").is_object()) return std::nullopt;
  } catch (const Error&) {
    return std::nullopt;
  }
  return std::string(text);
}

/// A call from `json`, which is valid.
std::optional<ToolCall> call_of(std::string_view json, bool needs_arguments) {
  if (json.front() != '{') return std::nullopt;
  const auto pieces = json_pieces(json);
  ToolCall call;
  std::string_view arguments;
  for (size_t i = 0; i + 1 < pieces.size(); i += 2) {
    const auto key = OrderedJson::parse(pieces[i]).get<std::string>();
    if (key == "name" && pieces[i + 1].front() == '"')
      call.name = OrderedJson::parse(pieces[i + 1]).get<std::string>();
    if (key == "arguments" || key == "parameters") arguments = pieces[i + 1];
  }
  if (call.name.empty() || (needs_arguments && arguments.empty())) return std::nullopt;
  auto object = arguments_of(arguments);
  if (!object) return std::nullopt;
  call.arguments = std::move(*object);
  return call;
}

class JsonReader : public ToolCallReader {
 public:
  /// `tools`: null where a tag ends the call; else the functions that a bare one can call.
  explicit JsonReader(const ToolSchemas* tools) : tools_(tools) {}

  Is step(char c) override {
    if (whole_) return step_end(c);
    if (json_.empty() && is_json_space(c)) return Is::open;
    if (json_.empty() && tools_ && c != '{') return Is::broken;
    json_ += c;
    const JsonProgress::Is is = progress_.step(c);
    if (is == JsonProgress::Is::broken) return Is::broken;
    whole_ = is == JsonProgress::Is::whole;
    return whole_ && tools_ ? Is::whole : Is::open;
  }

  bool may_end() const override { return whole_; }

  std::optional<std::vector<ToolCall>> calls() const override {
    if (!OrderedJson::accept(json_)) return std::nullopt;
    const auto items =
        json_.front() == '[' ? json_pieces(json_) : std::vector<std::string_view>{json_};
    std::vector<ToolCall> calls;
    for (const std::string_view item : items) {
      auto call = call_of(item, tools_ != nullptr);
      if (!call || (tools_ && !tools_->declares(call->name))) return std::nullopt;
      calls.push_back(std::move(*call));
    }
    if (calls.empty()) return std::nullopt;
    return calls;
  }

 private:
  Is step_end(char c) {
    if (end_.empty() && is_json_space(c)) return Is::open;
    end_ += c;
    if (end_ == kToolCallEnd) return Is::whole;
    return kToolCallEnd.starts_with(end_) ? Is::open : Is::broken;
  }

  const ToolSchemas* tools_;
  JsonProgress progress_;
  std::string json_;
  bool whole_ = false;
  std::string end_;
};

}  // namespace

std::unique_ptr<ToolCallReader> tagged_json_reader() {
  return std::make_unique<JsonReader>(nullptr);
}

std::unique_ptr<ToolCallReader> bare_json_reader(const ToolSchemas& tools) {
  return std::make_unique<JsonReader>(&tools);
}

}  // namespace sala
