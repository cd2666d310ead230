#include "cuda/device.h"
#include "cuda/kernels.h"

namespace sala::cuda {

Ops cuda_ops() {
  return {.embed = embed,
          .residual_norm = residual_norm,
          .matmul = matmul,
          .rope_table = rope_table,
          .qk_norm_rope = qk_norm_rope,
          .kv_append = kv_append,
          .compress_keys = compress_keys,
          .block_select = block_select,
          .attention = attention,
          .lightning = lightning,
          .sample = sample};
}

}  // namespace sala::cuda
