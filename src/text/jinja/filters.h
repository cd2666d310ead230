#pragma once

#include <functional>
#include <map>
#include <string>

#include "text/jinja/interpreter.h"

namespace sala::jinja {

using Filter = std::function<Value(Interpreter&, const Value& input, const Arguments&)>;
using FilterTable = std::map<std::string, Filter, std::less<>>;

/// Adds the filters on texts and numbers, and those on sequences and dicts.
void add_text_filters(FilterTable& table);
void add_list_filters(FilterTable& table);

/// All filters by name.
const FilterTable& filters();

/// Whether there is a test `name`.
bool is_test(std::string_view name);

}  // namespace sala::jinja
