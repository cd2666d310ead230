#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ops/weight.h"
#include "weights/stored_tensor.h"

namespace sala {

/// A packed weight as a tensor of bytes in a file, which is mapped and used where it lies. All that
/// a reader must know is in the tensor's name, `PARTS@TYPE:ROWSxCOLS`: the names of the matrices,
/// joined by "+" where they lie one under the other (ROWS counts all of them) or by "|" in a pair
/// (ROWS counts one), and a WeightType. Its dtype is U8, its shape [panels, bytes of a panel].
struct PackedMatrix {
  std::string parts;
  WeightType type = WeightType::f32;
  int64_t rows = 0;
  int64_t cols = 0;

  bool paired() const { return parts.find('|') != std::string::npos; }
  std::string name() const;
  /// Numbers in the matrices.
  int64_t elements() const { return rows * cols * (paired() ? 2 : 1); }
};

/// The type of this name among those that a matrix can be packed in; nothing for other names.
std::optional<WeightType> packed_type(std::string_view name);

/// What the name of a tensor says; nothing when it is not the name of a packed weight. Packed
/// weights have no type with scales of two levels.
std::optional<PackedMatrix> parse_packed(const StoredTensor& tensor);

/// Whether every scale and minimum of panel i is a finite number. True of types without scales.
bool sound_panel(const Weight& weight, int64_t i);

}  // namespace sala
