#pragma once

#include "ops/device.h"
#include "ops/weight.h"
#include "tensor/tensor.h"
#include "weights/source.h"

namespace sala {

/// Adds x^T x of the rows of x [T, n] to gram [n, n].
void add_gram(Device& device, In x, const ParallelFor& parallel, Out gram);

/// Rounds a matrix to a type of w8 or w4 so that its products with rows like those of which `gram`
/// is the sum change least: each column is rounded after what the columns before it were rounded
/// wrongly by has been made up for in it as well as it can be (GPTQ, Frantar et al. 2022,
/// arXiv 2210.17323; in the form of Chee et al. 2023, arXiv 2307.13304, theorem 6). gram [n, n] is
/// overwritten.
Weight round_with_feedback(Device& device, const Weight& matrix, WeightType type,
                           const ParallelFor& parallel, Out gram);

}  // namespace sala
