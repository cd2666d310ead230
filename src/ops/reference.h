#pragma once

#include <vector>

#include "ops/table.h"

namespace sala::reference {

/// The ops of the reference backend: plain loops, sums in double, one rounding where a result is
/// stored. Each does what its declaration in ops/*.h says.
void embed(Device&, In ids, const Weight& table, float scale, Out h);
void residual_norm(Device&, Out h, In a, float scale, In w, float eps, Out x);
void matmul(Device&, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y);
void rope_table(Device&, In positions, In inverse_frequency, RopeFactor factor, Out cos, Out sin);
void qk_norm_rope(Device&, Out x, int heads, In w, float eps, In cos, In sin);
void kv_append(Device&, const Sequences& sequences, In k, In v, const KvPages& pages);
void compress_keys(Device&, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys);
void block_select(Device&, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts);
void attention(Device&, const Sequences& sequences, In q, const KvPages& pages, In lists, In counts,
               float scale, Compute compute, In gate, Out o);
void lightning(Device&, const Sequences& sequences, In q, In k, In v, const LightningMemory& memory,
               const LightningForm& form, In gate, Out o);

/// The scores B[b] of block_select for token t of sequence b and kv head g, for the blocks up to
/// the token's own; forced blocks have the score of any other.
std::vector<double> block_scores(const Sequences& sequences, In q, const KvPages& pages,
                                 const CompressedKeys& fine, const CompressedKeys& coarse,
                                 int64_t b, int64_t t, int g, Compute compute);

/// A row of activations as a matmul sees it.
std::vector<double> activations(const float* x, int64_t cols, Compute compute, int64_t group);

}  // namespace sala::reference
