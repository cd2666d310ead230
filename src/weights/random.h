#pragma once

#include <cstdint>
#include <functional>

#include "ops/weight.h"

namespace sala {

/// A matrix of random numbers of mean 0 and of the variance, 1 / cols, that keeps a product as
/// large as what enters it. The same for the same arguments. `parallel` is that of pack(). Not for
/// types with scales of two levels.
Weight random_weight(
    WeightType type, int64_t rows, int64_t cols, bool paired,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel);

}  // namespace sala
