#pragma once

#include <cstdint>

#include "ops/pages.h"

namespace sala::cpu {

/// Running softmax of the rows of a run, a row being one head of one query: the
/// largest score, the sum of exp(score - largest), and the values weighted so.
struct Softmax {
  float* largest = nullptr;  ///< [rows], -inf before the first key
  float* sum = nullptr;      ///< [rows]
  float* values = nullptr;   ///< [rows][head_dim]
};

/// One block of keys, and the rows that attend to it.
struct AttendedBlock {
  const KvPages* pages = nullptr;
  KvHead head;                      ///< keys and values of the block
  const std::byte* next = nullptr;  ///< the same of the block that comes after, to be fetched
                                    ///< meanwhile
  float scale = 1.0f;
  int64_t rows = 0;
  const float** q = nullptr;   ///< [rows]
  int32_t* state = nullptr;    ///< [rows] which row of `softmax` each is
  int64_t* visible = nullptr;  ///< [rows] keys that the row may see, from the first: at least 1
  Softmax softmax;
  float* scores = nullptr;   ///< scratch [rows][page_lanes]
  float* rescale = nullptr;  ///< scratch [rows]
  float* wide = nullptr;     ///< scratch [head_dim][page_lanes]: the keys as f32, then the values;
                             ///< behind it the channels that the last group of int4 has room for
  float* grid = nullptr;     ///< scratch [grid_rows][page_lanes]: of the keys, then of the values
};

}  // namespace sala::cpu
