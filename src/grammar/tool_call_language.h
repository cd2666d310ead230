#pragma once

#include <string>

#include "base/json_fwd.h"
#include "grammar/language.h"
#include "text/tool_calls.h"

namespace sala {

/// The replies that do nothing but call tools, as ToolCallSplitter reads them: `tools` as OpenAI's
/// requests have them, of these only `only` if it is not empty; one call, or `several`. Arguments
/// are what the tool's schema allows, but texts among the parameters of XML formats are any text
/// (or one of their enum). Throws Error that names the tool, also where `format` is none.
Language tool_call_language(ToolFormat format, const OrderedJson& tools, const std::string& only,
                            bool several, Rules& rules);

}  // namespace sala
