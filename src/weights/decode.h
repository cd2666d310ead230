#pragma once

#include <cstdint>
#include <span>

#include "ops/weight.h"
#include "weights/stored_tensor.h"

namespace sala {

/// The narrowest weight type that holds a stored type exactly: floats as they are, Q4_0 and Q4_1 as
/// w4, Q4_K as k4, the other types with blocks of 32 columns as w8 and of 256 columns as k8. Not
/// for `other`.
WeightType weight_type(StoredType type);

/// The narrowest weight type that holds everything that `a` and `b` hold.
WeightType common_type(WeightType a, WeightType b);

/// Decodes row n of a stored matrix, in the order of the model (StoredTensor::stored_row), for a
/// weight of `type`, which holds weight_type(matrix.type). Every value is the one that the format
/// defines, in f32. False if a block's scale or minimum is not a finite f16 number, as those of any
/// sane file are; `row` then has the right size and no meaning. Thread-safe.
[[nodiscard]] bool decode_row(const StoredTensor& matrix, int64_t n, WeightType type,
                              WeightRow& row);

/// Decodes all elements of a tensor of floats (f32, f16, bf16).
void decode_floats(const StoredTensor& tensor, std::span<float> out);

}  // namespace sala
