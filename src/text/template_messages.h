#pragma once

#include "base/json_fwd.h"

namespace sala {

/// `messages` of an OpenAI request as chat templates expect them. An assistant's tool_calls have
/// their `arguments` as an object where their text is a JSON object (other texts stay), and such a
/// message's `content` is "" where it is null or missing.
OrderedJson template_messages(OrderedJson messages);

}  // namespace sala
