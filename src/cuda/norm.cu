#include "cuda/kernels.h"
#include "cuda/rows_device.h"

// residual_norm. A block a row. 12 to 16 bytes and 5 flops an element, so memory decides: a row of
// up to 4096 columns is read once and waits in registers for its norm.

namespace sala::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kHeld = 2;  // fours of a thread that stay in registers

struct Shared {
  float partial[kThreads / kWarpThreads];
};

struct Rows {
  float* h;
  const float* a;  ///< may be null
  const float* w;
  float* x;  ///< may be h
  int64_t h_stride, a_stride, x_stride;
  int64_t n;
  float scale, eps;
  bool aligned;  ///< all rows begin at multiples of 16 bytes
};

/// Adds and stores elements [i, i + 4) of row t of h.
__device__ inline float4 add(const Rows& rows, int64_t t, int64_t i) {
  float* h = rows.h + t * rows.h_stride;
  float4 v = load_four(h, i, rows.n, rows.aligned);
  if (rows.a == nullptr) return v;
  const float4 a = load_four(rows.a + t * rows.a_stride, i, rows.n, rows.aligned);
  v = {fmaf(rows.scale, a.x, v.x), fmaf(rows.scale, a.y, v.y), fmaf(rows.scale, a.z, v.z),
       fmaf(rows.scale, a.w, v.w)};
  store_four(h, i, rows.n, rows.aligned, v);
  return v;
}

__device__ inline void store_normed(const Rows& rows, int64_t t, int64_t i, float4 v,
                                    float inverse) {
  const float4 w = load_four(rows.w, i, rows.n, rows.aligned);
  store_four(rows.x + t * rows.x_stride, i, rows.n, rows.aligned,
             {v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w});
}

/// A block is one row; a thread takes every kThreads-th four of columns, twice: to add and to sum,
/// then to scale.
__global__ void __launch_bounds__(kThreads) residual_norm_row(Rows rows) {
  wait_for_earlier();
  const int64_t t = blockIdx.x;
  const int64_t first = 4 * static_cast<int64_t>(threadIdx.x);
  constexpr int64_t kStep = int64_t{4} * kThreads;
  float4 held[kHeld];
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (first + j * kStep < rows.n) {
      held[j] = add(rows, t, first + j * kStep);
      sum = add_squares(held[j], sum);
    }
  for (int64_t i = first + kHeld * kStep; i < rows.n; i += kStep)
    sum = add_squares(add(rows, t, i), sum);

  const float inverse = inverse_rms(block_sum(sum, shared<Shared>().partial), rows.n, rows.eps);
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (first + j * kStep < rows.n) store_normed(rows, t, first + j * kStep, held[j], inverse);
  for (int64_t i = first + kHeld * kStep; i < rows.n; i += kStep)
    store_normed(rows, t, i, load_four(rows.h + t * rows.h_stride, i, rows.n, rows.aligned),
                 inverse);
}

}  // namespace

void residual_norm(Device& device, Out h, In a, float scale, In w, float eps, Out x) {
  const Rows rows{
      .h = h.as<float>(),
      .a = a.empty() ? nullptr : a.as<float>(),
      .w = w.as<float>(),
      .x = x.as<float>(),
      .h_stride = h.stride[0],
      .a_stride = a.stride[0],
      .x_stride = x.stride[0],
      .n = h.dim[1],
      .scale = scale,
      .eps = eps,
      .aligned = rows_aligned(h) && rows_aligned(a) && rows_aligned(w) && rows_aligned(x)};
  launch(device, {.x = h.dim[0]}, kThreads, sizeof(Shared), residual_norm_row, rows);
}

}  // namespace sala::cuda
