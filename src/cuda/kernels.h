#pragma once

#include "ops/table.h"

/// The ops of the CUDA backend. What they compute is said in src/ops; here each is one file of
/// kernels.
namespace sala::cuda {

void embed(Device& device, In ids, const Weight& table, float scale, Out h);
void residual_norm(Device& device, Out h, In a, float scale, In w, float eps, Out x);
void matmul(Device& device, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y);
void rope_table(Device& device, In positions, In inverse_frequency, RopeFactor factor, Out cos,
                Out sin);
void qk_norm_rope(Device& device, Out x, int heads, In w, float eps, In cos, In sin);
void kv_append(Device& device, const Sequences& sequences, In k, In v, const KvPages& pages);
void compress_keys(Device& device, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys);
void block_select(Device& device, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts);
void attention(Device& device, const Sequences& sequences, In q, const KvPages& pages, In lists,
               In counts, float scale, Compute compute, In gate, Out o);
void lightning(Device& device, const Sequences& sequences, In q, In k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o);

}  // namespace sala::cuda
