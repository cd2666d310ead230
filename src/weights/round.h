#pragma once

#include <span>

#include "ops/weight.h"

namespace sala {

/// Fills `row`, which is empty, with numbers rounded to `type`, which has no scales of two levels.
/// A group of w8 or w4 gets the smallest number as its minimum and the width of its numbers as its
/// scale times the largest code, both rounded to f16; each number then gets the nearest code. False
/// when a number is not finite or beyond f16 where the type needs that.
bool round_row(std::span<const float> values, WeightType type, WeightRow& row);

}  // namespace sala
