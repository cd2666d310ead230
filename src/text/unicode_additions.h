#pragma once

#include <string>
#include <string_view>

namespace sala {

/// The characters of a general category ("L", "Lo") that Unicode 15 and 16 added, as members of a
/// PCRE2 class. PCRE2 10.42 knows Unicode 14 and would take them for unassigned.
std::string unicode_additions(std::string_view category);

}  // namespace sala
