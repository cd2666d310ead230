#pragma once

#include "ops/attention.h"
#include "ops/basic.h"
#include "ops/lightning.h"
#include "ops/sample.h"

namespace sala {

/// What a backend can do, as a value: one function per op, each with the signature of the op
/// itself. Entries may be patched: `device.ops.attention = reference_ops().attention` finds a wrong
/// kernel in minutes.
struct Ops {
  decltype(&sala::embed) embed = nullptr;
  decltype(&sala::residual_norm) residual_norm = nullptr;
  decltype(&sala::matmul) matmul = nullptr;
  decltype(&sala::rope_table) rope_table = nullptr;
  decltype(&sala::qk_norm_rope) qk_norm_rope = nullptr;
  decltype(&sala::kv_append) kv_append = nullptr;
  decltype(&sala::compress_keys) compress_keys = nullptr;
  decltype(&sala::block_select) block_select = nullptr;
  decltype(&sala::attention) attention = nullptr;
  decltype(&sala::lightning) lightning = nullptr;
  decltype(&sala::sample) sample = nullptr;  ///< none on the CPU: its logits are the host's, and
                                             ///< engine/sampler.h reads them as they are
};

/// Plain loops with double sums: obviously right, and slow.
Ops reference_ops();

}  // namespace sala
