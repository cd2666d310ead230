#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace sala {

/// A name from a foreign file, in quotes, safe to print: control characters and bytes that are not
/// UTF-8 become \xNN and long names are cut.
std::string printable(std::string_view name);

/// "[4096, 11008]".
std::string shape_text(std::span<const int64_t> shape);

/// Whether `text` is well-formed UTF-8 (no overlong forms, surrogates or code points above
/// U+10FFFF).
bool is_utf8(std::string_view text);

/// The product of a shape's extents; nothing if one is negative or the product exceeds int64_t. 1
/// for an empty shape.
std::optional<int64_t> element_count(std::span<const int64_t> shape);

}  // namespace sala
