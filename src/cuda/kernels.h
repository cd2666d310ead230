#pragma once

#include "ops/table.h"

/// The ops of the CUDA backend. What they compute is said in src/ops; here each is one file of
/// kernels.
namespace sala::cuda {

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

}  // namespace sala::cuda
