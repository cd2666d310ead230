#include "cuda/device.h"
#include "cuda/kernels.h"

namespace sala::cuda {

Ops cuda_ops() { return {.embed = embed, .matmul = matmul}; }

}  // namespace sala::cuda
