#include "tools/conversation.h"

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/json.h"

namespace sala {

void Conversation::add(const char* role, std::string text) {
  turns_.push_back({.role = role, .text = std::move(text)});
}

bool Conversation::undo() {
  const auto last = std::find_if(turns_.rbegin(), turns_.rend(),
                                 [](const Turn& turn) { return turn.role == "user"; });
  if (last == turns_.rend()) return false;
  turns_.erase(std::prev(last.base()), turns_.end());
  return true;
}

OrderedJson Conversation::messages() const {
  OrderedJson all = OrderedJson::array();
  if (!system_.empty()) all.push_back({{"role", "system"}, {"content", system_}});
  for (const Turn& turn : turns_) all.push_back({{"role", turn.role}, {"content", turn.text}});
  return all;
}

void Conversation::save(const std::filesystem::path& path) const {
  std::ofstream file(path);
  file << messages().dump(2, ' ', false, OrderedJson::error_handler_t::replace) << '\n';
  file.close();
  if (!file) fail("{}: cannot be written; choose another path", path.string());
}

void Conversation::load(const std::filesystem::path& path) {
  const Json all = read_json(path);
  if (!all.is_array())
    fail("{}: holds JSON of type {}; expected an array of messages", path.string(),
         all.type_name());
  Conversation loaded;
  for (size_t i = 0; i < all.size(); ++i) {
    const Json& message = all[i];
    const auto text = [&](const char* key) -> std::string {
      if (!message.is_object() || !message.contains(key) || !message[key].is_string())
        fail("{}: message {} has no text \"{}\"", path.string(), i, key);
      return message[key].get<std::string>();
    };
    const std::string role = text("role");
    if (role == "system" && i == 0) {
      loaded.system_ = text("content");
    } else if (role == "user" || role == "assistant") {
      loaded.turns_.push_back({.role = role, .text = text("content")});
    } else {
      fail("{}: message {} has the role \"{}\"; expected user, assistant, or system in the first",
           path.string(), i, role);
    }
  }
  *this = std::move(loaded);
}

}  // namespace sala
