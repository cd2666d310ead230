#include "text/template_messages.h"

#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"

namespace sala {
namespace {

OrderedJson* member(OrderedJson& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto at = object.find(key);
  return at == object.end() ? nullptr : &*at;
}

void parse_arguments(OrderedJson& function) {
  OrderedJson* arguments = member(function, "arguments");
  if (!arguments || !arguments->is_string()) return;
  try {
    OrderedJson parsed =
        parse_ordered_json(arguments->get_ref<const std::string&>(), "a call's arguments");
    if (parsed.is_object()) *arguments = std::move(parsed);
  } catch (const Error&) {
    return;  // a model's own mistake: it shall see it as it wrote it
  }
}

}  // namespace

OrderedJson template_messages(OrderedJson messages) {
  if (!messages.is_array()) return messages;
  for (OrderedJson& message : messages) {
    OrderedJson* calls = member(message, "tool_calls");
    if (!calls || !calls->is_array() || calls->empty()) continue;
    for (OrderedJson& call : *calls) {
      OrderedJson* function = member(call, "function");
      parse_arguments(function ? *function : call);
    }
    // Templates look for marks in it (`'</think>' in message.content`), which null has not.
    if (const OrderedJson* content = member(message, "content"); !content || content->is_null())
      message["content"] = "";
  }
  return messages;
}

}  // namespace sala
