#pragma once

#include <cstdint>

namespace sala::cpu {

/// Some tokens of one cell, and what one head remembers. Pointers to rows of the step advance by a
/// stride in elements.
struct LightningCell {
  int64_t d = 0;      ///< head size
  int64_t cell = 0;   ///< tokens of a full cell
  int64_t first = 0;  ///< offset in the cell of the first token
  int64_t count = 0;  ///< tokens
  float scale = 1.0f;
  float* state = nullptr;         ///< [d][d]
  const float* keys = nullptr;    ///< [d][cell]
  const float* values = nullptr;  ///< [cell][d]
  const float* powers = nullptr;  ///< [cell + 1] lambda^n
  const float* q = nullptr;
  int64_t q_stride = 0;
  float* o = nullptr;
  int64_t o_stride = 0;
  float* weights = nullptr;  ///< scratch [kTileRows][cell]
};

}  // namespace sala::cpu
