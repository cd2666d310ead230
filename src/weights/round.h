#pragma once

#include <cstdint>
#include <span>

#include "ops/weight.h"

namespace sala {

/// The grid of a group of w8 or w4: codes up to `largest`.
struct Grid {
  uint16_t scale = 0, min = 0;  ///< f16
  float largest = 15;

  uint8_t code(float x) const;
  float value(uint8_t code) const;
};

/// The grid from the smallest of these numbers to the largest.
Grid grid_of(std::span<const float> values, float largest);

/// Fills `row`, which is empty, with numbers rounded to `type`, which has no scales of two levels.
/// A group of w8 or w4 gets the smallest number as its minimum and the width of its numbers as its
/// scale times the largest code, both rounded to f16; each number then gets the nearest code. False
/// when a number is not finite or beyond f16 where the type needs that.
bool round_row(std::span<const float> values, WeightType type, WeightRow& row);

}  // namespace sala
