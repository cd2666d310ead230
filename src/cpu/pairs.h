#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"
#include "ops/basic.h"
#include "ops/kv_type.h"

/// Products of pairs of bf16 (vpdpbf16ps; pairs.cc). A pair is two numbers that follow each other
/// in the inner dimension, the first in the low half of a uint32_t.
namespace sala::cpu {

/// Whether what meets keys and values of `type` is rounded to bf16, and whether the products are
/// those of pairs then (else they are f32's, of rounded factors).
inline bool rounds(Compute compute, KvType type) {
  return compute == Compute::bf16 && type != KvType::f32;
}
inline bool in_pairs(Compute compute, KvType type) {
  return rounds(compute, type) && has_fast_bf16();
}

inline constexpr int kPairRows = 6;       ///< that share one pass over a matrix,
inline constexpr int kManyPairRows = 12;  ///< where it has 16 columns

/// Row r multiplies a[r] and accumulates in c[r], which begins as c[r] * start[r], or as zero where
/// the product is fresh.
struct PairRows {
  const uint32_t* a[kManyPairRows];
  float* c[kManyPairRows];
  float start[kManyPairRows];
};

/// Pairs of rows [pairs][stride], of which `columns` are wanted.
struct PairMatrix {
  const uint32_t* data;
  int64_t stride;
  int64_t columns;
};

/// Which pairs a product runs over: [from, to), and of pair `to` the first row where the number of
/// rows is odd.
struct PairSpan {
  int64_t from;
  int64_t to;
  bool odd;
};

/// Lines to ask for while rows are multiplied, two a step.
struct Lines {
  const std::byte* next = nullptr;
  const std::byte* end = nullptr;

  void step() {
    if (next >= end) return;
    __builtin_prefetch(next, 0, 2);
    __builtin_prefetch(next + 64, 0, 2);
    next += 128;
  }
};

/// For each of `count` rows (up to kPairRows, or kManyPairRows of a fresh product): one chain per
/// output over the pairs of the span, ascending. An output's operations depend neither on the other
/// rows nor on their number.
void multiply_pairs(bool fresh, int count, const PairRows& rows, PairSpan span, const PairMatrix& b,
                    Lines& lines);

/// x [count] as pairs of bf16 (nearest even), an odd one with zero.
void round_to_pairs(const float* x, int64_t count, uint32_t* pairs);

}  // namespace sala::cpu
