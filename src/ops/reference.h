#pragma once

#include <vector>

#include "ops/table.h"

namespace sala::reference {

/// The ops of the reference backend: plain loops, sums in double, one rounding where a result is
/// stored. Each does what its declaration in ops/*.h says.
decltype(sala::embed) embed;
decltype(sala::residual_norm) residual_norm;
decltype(sala::matmul) matmul;
decltype(sala::rope_table) rope_table;
decltype(sala::qk_norm_rope) qk_norm_rope;
decltype(sala::kv_append) kv_append;
decltype(sala::compress_keys) compress_keys;
decltype(sala::block_select) block_select;
decltype(sala::attention) attention;
decltype(sala::lightning) lightning;
decltype(sala::sample) sample;

/// Row t of embed(), for every backend on the host's memory.
void embed_row(In ids, In drawn, const Weight& table, float scale, Out h, int64_t t);

/// The scores B[b] of block_select for token t of sequence b and kv head g, for the blocks up to
/// the token's own; forced blocks have the score of any other.
std::vector<double> block_scores(const Sequences& sequences, In q, const KvPages& pages,
                                 const CompressedKeys& fine, const CompressedKeys& coarse,
                                 int64_t b, int64_t t, int g, Compute compute);

/// A row of activations as a matmul sees it.
std::vector<double> activations(const float* x, int64_t cols, Compute compute, int64_t group);

}  // namespace sala::reference
