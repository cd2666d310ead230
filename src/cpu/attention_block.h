#pragma once

#include <cstdint>

#include "cpu/pairs.h"
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
  Compute compute = Compute::f32;
  const float** q = nullptr;   ///< [rows] each [head_dim], or where in_pairs() its pairs of bf16
  int32_t* state = nullptr;    ///< [rows] which row of `softmax` each is
  int64_t* visible = nullptr;  ///< [rows] keys that the row may see, from the first: at least 1
  Softmax softmax;
  float* scores = nullptr;   ///< scratch [rows][page_lanes]
  float* rescale = nullptr;  ///< scratch [rows]
  float* wide = nullptr;     ///< scratch [head_dim + 1][page_lanes] and a group: the keys, then the
                             ///< values as f32; an odd last row of bf16 has a partner, and the last
                             ///< group of int4 has room for more channels than there may be
  float* grid = nullptr;     ///< scratch [grid_rows][page_lanes]: of the keys, then of the values
};

// In f32 (attention_block.cc).

/// Adds the block to the softmax of its rows.
void attend(const AttendedBlock& block);
/// Turns scores [rows][page_lanes] into weights exp(score * scale - largest); updates largest and
/// sum, and leaves in `rescale` what values of before are to be multiplied with.
void weigh(const AttendedBlock& block);
/// Adds a finished segment of `rows` rows to the total.
void merge(const Softmax& segment, const Softmax& total, int64_t rows, int64_t head_dim);
/// o [head_dim] = values / sum of one row, times sigmoid(gate) where a gate [head_dim] is given.
void finish_row(const Softmax& total, int64_t row, int64_t head_dim, const float* gate, float* o);

// On pairs of bf16 (attention_bf16.cc; x86-64 with vpdpbf16ps): scores = q K^T, and values = values
// * rescale + weights V with the weights in `scores`, which are left rounded.
void bf16_scores(const AttendedBlock& block);
void bf16_values(const AttendedBlock& block);

}  // namespace sala::cpu
