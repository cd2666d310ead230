#include "base/error.h"
#include "text/chat_template.h"

namespace sala {

OrderedJson parse_ordered_json(std::string_view text, const std::string& name) {
  try {
    return OrderedJson::parse(text);
  } catch (const OrderedJson::exception& e) {
    fail("{}: not valid JSON: {}", name, e.what());
  }
}

}  // namespace sala
