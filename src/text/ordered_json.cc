#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"

namespace sala {

OrderedJson parse_ordered_json(std::string_view text, const std::string& name) {
  check_json_text(text, name, true);
  try {
    return OrderedJson::parse(text);
  } catch (const OrderedJson::exception& e) {
    fail("{}: not valid JSON: {}", name, std::string_view(e.what()).substr(0, 300));
  }
}

}  // namespace sala
