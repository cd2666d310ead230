#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sala {

/// What the header of a safetensors file says of one tensor, unchecked but for its form.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  ///< bytes from the end of the header
};

/// Reads the JSON of a header. Nothing but the format's own fields is accepted, so that memory
/// stays proportional to the text. `file` is for messages. Throws Error.
std::vector<SafetensorsEntry> read_header_json(std::string_view text, const std::string& file);

/// Reads `weight_map` of an index (tensor -> shard); other fields are skipped. Throws Error.
std::map<std::string, std::string> read_index_json(std::string_view text, const std::string& file);

}  // namespace sala
