#pragma once

#include <map>
#include <string>

#include "base/json.h"

namespace sala {

/// Messages in the making, as chat templates read them, out of the items of APIs that tell a
/// conversation otherwise. What the assistant thinks, says and calls, one behind the other, is one
/// message.
class Transcript {
 public:
  /// A message of the user, or of the system: those at the beginning become one.
  void add(const std::string& role, const std::string& text);
  void think(const std::string& thought);
  void say(const std::string& text);
  /// `arguments`: JSON, as text.
  void call(const std::string& id, const std::string& name, const std::string& arguments);
  /// What the call `id` has given.
  void result(const std::string& id, const std::string& text);

  const OrderedJson& messages() const { return messages_; }

 private:
  /// The assistant's message, the last one; a new one where that has one of these fields.
  OrderedJson& turn(std::initializer_list<const char*> new_behind);

  OrderedJson messages_ = OrderedJson::array();
  std::map<std::string, std::string> names_;  ///< of calls, by id: some templates want them
};

}  // namespace sala
