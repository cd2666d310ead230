#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "ops/weight.h"
#include "weights/stored_tensor.h"

namespace sala {

/// The narrowest weight type that holds a stored type exactly: floats as they are, Q4_0 and Q4_1 as
/// w4, Q4_K as k4, the other types with blocks of 32 columns as w8 and of 256 columns as k8. Not
/// for `other`, int4 and int8.
WeightType weight_type(StoredType type);
/// The same of a tensor. int4 and int8 become types of the w4 and w8 families, where their groups
/// allow none of them f16 (grouped.h).
WeightType weight_type(const StoredTensor& tensor);

/// The narrowest weight type that holds everything that `a` and `b` hold.
WeightType common_type(WeightType a, WeightType b);

/// Decodes row n of a stored matrix, in the order of the model (StoredTensor::stored_row), for a
/// weight of `type`, which holds weight_type(matrix.type). Every value is the one that the format
/// defines, in f32. False if a block's scale or minimum is not a finite f16 number, as those of any
/// sane file are; `row` then has the right size and no meaning. Thread-safe.
[[nodiscard]] bool decode_row(const StoredTensor& matrix, int64_t n, WeightType type,
                              WeightRow& row);

/// Decodes as many rows as `rows` has, from row `first` on. Returns the first one of which
/// decode_row returns false.
std::optional<int64_t> decode_rows(const StoredTensor& matrix, int64_t first, WeightType type,
                                   std::span<WeightRow> rows);

/// Decodes all elements of a tensor of floats (f32, f16, bf16).
void decode_floats(const StoredTensor& tensor, std::span<float> out);

}  // namespace sala
