#pragma once

#include <memory>
#include <vector>

#include "ops/device.h"

#ifndef SALA_CUDA_EMULATION
#include <cuda_runtime.h>
#endif

namespace sala::cuda {

#ifndef SALA_CUDA_EMULATION
/// Throws Error with CUDA's own words.
void check(cudaError_t status);
#endif

/// One NVIDIA GPU, or its emulation on the host: ops run one after the other, in the order of the
/// calls. Everything that an op takes lies in memory that host and GPU both reach.
class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;
  bool native_bf16() const override { return true; }
  int64_t scratch_bytes() const override;

  /// At least `bytes` of scratch for the op that runs now, 256-byte aligned, contents undefined;
  /// `lane` tells independent buffers of one op apart. Grows to the largest request and then
  /// allocates no more.
  std::byte* scratch(int lane, int64_t bytes);

#ifndef SALA_CUDA_EMULATION
  cudaStream_t stream() const { return stream_; }
#endif

 private:
  struct Buffer {
    std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  void release(Buffer& buffer);
  std::vector<Buffer> scratch_;
#ifndef SALA_CUDA_EMULATION
  cudaStream_t stream_ = nullptr;
#endif
};

/// The device on which an op of this backend runs.
inline CudaDevice& self(Device& device) { return static_cast<CudaDevice&>(device); }

Ops cuda_ops();

}  // namespace sala::cuda

namespace sala {

/// GPU number `ordinal`. Throws Error where there is none.
std::unique_ptr<Device> open_cuda(int ordinal = 0);

}  // namespace sala
