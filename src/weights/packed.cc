#include "weights/packed.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "weights/superblock.h"

namespace sala {
namespace {

/// Reads the digits up to `end`, which may be followed by nothing else.
bool read_extent(const char* begin, const char* end, int64_t& value) {
  const auto [last, error] = std::from_chars(begin, end, value);
  return error == std::errc() && last == end && value > 0 && value <= INT32_MAX;
}

}  // namespace

std::string PackedMatrix::name() const {
  return fmt::format("{}@{}:{}x{}", parts, name_of(type), rows, cols);
}

std::optional<WeightType> packed_type(std::string_view name) {
  for (const WeightType type :
       {WeightType::f32, WeightType::f16, WeightType::bf16, WeightType::w8, WeightType::w4,
        WeightType::w8g64, WeightType::w4g64, WeightType::w8g128, WeightType::w4g128})
    if (name == name_of(type)) return type;
  return {};
}

std::optional<PackedMatrix> parse_packed(const StoredTensor& tensor) {
  const std::string& name = tensor.name;
  const size_t at = name.rfind('@'), colon = name.find(':', at), by = name.find('x', colon);
  if (tensor.type_name != "U8" || at == std::string::npos || by == std::string::npos) return {};
  PackedMatrix matrix{.parts = name.substr(0, at)};
  const char* text = name.data();
  if (!read_extent(text + colon + 1, text + by, matrix.rows) ||
      !read_extent(text + by + 1, text + name.size(), matrix.cols))
    return {};
  const auto type = packed_type(std::string_view(name).substr(at + 1, colon - at - 1));
  if (!type) return {};
  matrix.type = *type;
  return matrix;
}

bool sound_panel(const Weight& weight, int64_t i) {
  if (!quantised(weight.type)) return true;
  bool sound = true;
  for (int64_t g = 0; g < weight.cols / group_columns(weight.type); ++g) {
    uint16_t numbers[2 * kPanel];  // scales and minima
    std::memcpy(numbers, weight.panel(i) + group_place(weight.type, g), sizeof numbers);
    for (const uint16_t number : numbers) sound &= finite(number);
  }
  return sound;
}

}  // namespace sala
