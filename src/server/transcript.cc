#include "server/transcript.h"

namespace sala {

void Transcript::add(const std::string& role, const std::string& text) {
  if (role == "system" && messages_.size() == 1 && messages_[0]["role"] == "system")
    messages_[0]["content"].get_ref<std::string&>().append("\n\n").append(text);
  else
    messages_.push_back({{"role", role}, {"content", text}});
}

OrderedJson& Transcript::turn(std::initializer_list<const char*> new_behind) {
  bool fresh = messages_.empty() || messages_.back()["role"] != "assistant";
  for (const char* field : new_behind) fresh = fresh || messages_.back().contains(field);
  if (fresh) messages_.push_back({{"role", "assistant"}});
  return messages_.back();
}

void Transcript::think(const std::string& thought) {
  turn({"reasoning_content", "content", "tool_calls"})["reasoning_content"] = thought;
}

void Transcript::say(const std::string& text) { turn({"content", "tool_calls"})["content"] = text; }

void Transcript::call(const std::string& id, const std::string& name,
                      const std::string& arguments) {
  names_[id] = name;
  OrderedJson& message = turn({});
  if (!message.contains("tool_calls")) message["tool_calls"] = OrderedJson::array();
  message["tool_calls"].push_back(
      {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}});
}

void Transcript::result(const std::string& id, const std::string& text) {
  OrderedJson message = {{"role", "tool"}, {"tool_call_id", id}};
  if (const auto name = names_.find(id); name != names_.end()) message["name"] = name->second;
  message["content"] = text;
  messages_.push_back(message);
}

}  // namespace sala
