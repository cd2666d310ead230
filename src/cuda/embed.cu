#include "cuda/kernels.h"
#include "cuda/weight_device.h"

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;

/// A block copies one row of the table.
template <WeightType kType>
__global__ void embed_row(const int32_t* ids, const std::byte* panels, int64_t panel_bytes,
                          int64_t columns, float scale, float* h, int64_t h_stride) {
  const int64_t t = blockIdx.x;
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x)
    h[t * h_stride + k] = scale * element<kType>(panels, panel_bytes, false, 0, ids[t], k);
}

}  // namespace

void embed(Device& device, In ids, const Weight& table, float scale, Out h) {
  for_type(table.type, [&]<WeightType kType>() {
    launch(device, {.x = ids.dim[0]}, kThreads, 0, embed_row<kType>, ids.as<int32_t>(), table.data,
           table.panel_bytes(), table.cols, scale, h.as<float>(), h.stride[0]);
  });
}

}  // namespace sala::cuda
