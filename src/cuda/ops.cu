#include "cuda/device.h"
#include "cuda/kernels.h"

namespace sala::cuda {

Ops cuda_ops() { return {.embed = embed, .block_select = block_select, .attention = attention}; }

}  // namespace sala::cuda
