#include "cuda/kernels.h"
#include "cuda/weights_device.h"

// embed. Bound by latency: a row lies strewn over its panel, a line of memory for every few
// columns.

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;

/// A block copies one row of the table, a thread eight columns.
template <WeightType kType>
__global__ void embed_row(const int32_t* ids, const int32_t* drawn, int64_t count,
                          const std::byte* panels, int64_t panel_bytes, int64_t cols, float scale,
                          float* h, int64_t h_stride) {
  wait_for_earlier();
  const int64_t t = blockIdx.x, id = embedded_row(ids, drawn, count, t);
  const std::byte* panel = panels + id / kPanel * panel_bytes;
  for (int64_t k = int64_t{8} * threadIdx.x; k < cols; k += int64_t{8} * kThreads) {
    float w[8] = {};
    if (id >= 0) eight_columns<kType>(panel, cols, k, static_cast<int>(id % kPanel), w);
    for (int i = 0; i < 8 && k + i < cols; ++i) h[t * h_stride + k + i] = scale * w[i];
  }
}

}  // namespace

void embed(Device& device, In ids, In drawn, const Weight& table, float scale, Out h) {
  for_type(table.type, [&]<WeightType kType>() {
    launch(device, {.x = ids.dim[0]}, kThreads, 0, embed_row<kType>, ids.as<int32_t>(),
           static_cast<const int32_t*>(drawn.data), drawn.dim[0], table.data, table.panel_bytes(),
           table.cols, scale, h.as<float>(), h.stride[0]);
  });
}

}  // namespace sala::cuda
