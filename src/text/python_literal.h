#pragma once

#include <string>
#include <string_view>

namespace sala {

/// `text`, if it is a Python literal of numbers, strings, True, False, None, lists and
/// dictionaries, as JSON. Of any other text it makes something that is no JSON either, or that
/// text's own JSON.
std::string json_of_python(std::string_view text);

}  // namespace sala
