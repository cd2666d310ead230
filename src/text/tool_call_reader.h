#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "text/tool_calls.h"
#include "text/tool_schemas.h"

namespace sala {

/// Ends a call, or several, in the formats that put a tag around them.
inline constexpr std::string_view kToolCallEnd = "</tool_call>";

/// Reads, byte by byte, what stands behind the opening mark of a call.
class ToolCallReader {
 public:
  enum class Is : uint8_t {
    open,   ///< goes on
    whole,  ///< ends with this byte
    broken  ///< is no call
  };

  virtual ~ToolCallReader() = default;
  virtual Is step(char c) = 0;

  /// Whether all but closing marks is there.
  virtual bool may_end() const = 0;

  /// The calls, once whole or where they may end; nothing when it is none after all.
  virtual std::optional<std::vector<ToolCall>> calls() const = 0;
};

/// A text that begins a call where it stands in the right place.
struct OpeningMark {
  enum class Place : uint8_t {
    anywhere,
    first,      ///< before all that is said, or right after a call
    after_call  ///< right after a call
  };
  std::string_view text;  ///< holds its first byte once
  Place place = Place::anywhere;
};

std::vector<OpeningMark> opening_marks(ToolFormat format);

/// A reader of what stands behind `mark`, one of opening_marks(format); null where the mark is all
/// and means nothing. `tools` outlives it.
std::unique_ptr<ToolCallReader> tool_call_reader(ToolFormat format, std::string_view mark,
                                                 const ToolSchemas& tools);

/// Calls as JSON objects, or an array of them, which `</tool_call>` ends.
std::unique_ptr<ToolCallReader> tagged_json_reader();

/// A call of one of `tools` as a bare JSON object.
std::unique_ptr<ToolCallReader> bare_json_reader(const ToolSchemas& tools);

/// Calls as elements with one element a parameter.
struct XmlDialect {
  std::string_view function;       ///< what a function's name follows
  std::string_view parameter;      ///< what a parameter's name follows
  std::string_view parameter_end;  ///< what ends its value
  bool escaped;  ///< names are in quotes, values have XML's entities and CDATA; else a value has a
                 ///< line break at each end
};

/// `mark` began the call: `dialect.function`, or a tag around functions that `</tool_call>` ends.
std::unique_ptr<ToolCallReader> xml_reader(const XmlDialect& dialect, std::string_view mark,
                                           const ToolSchemas& tools);

}  // namespace sala
