#include <new>

#include "base/error.h"
#include "cuda/device.h"
#include "cuda/platform.h"

namespace sala::cuda {

#ifdef SALA_CUDA_EMULATION

CudaDevice::CudaDevice(int) : Device("cuda (emulated)", cuda_ops()) {}
CudaDevice::~CudaDevice() {
  for (Buffer& buffer : scratch_) release(buffer);
}

// The exact size, so that the address sanitizer sees what lies outside.
std::byte* CudaDevice::scratch(int lane, int64_t bytes) {
  scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(lane) + 1));
  Buffer& buffer = scratch_[static_cast<size_t>(lane)];
  release(buffer);
  buffer = {.data = static_cast<std::byte*>(
                ::operator new(static_cast<size_t>(bytes), std::align_val_t{256})),
            .bytes = bytes};
  std::memset(buffer.data, 0xFF, static_cast<size_t>(bytes));
  return buffer.data;
}

void CudaDevice::release(Buffer& buffer) {
  ::operator delete(buffer.data, std::align_val_t{256});
  buffer = {};
}

#else

void check(cudaError_t status) {
  if (status != cudaSuccess) fail("CUDA: {}", cudaGetErrorString(status));
}

CudaDevice::CudaDevice(int ordinal) : Device("cuda:" + std::to_string(ordinal), cuda_ops()) {
  check(cudaSetDevice(ordinal));
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaDevice::~CudaDevice() {
  for (Buffer& buffer : scratch_) release(buffer);
  cudaStreamDestroy(stream_);
}

std::byte* CudaDevice::scratch(int lane, int64_t bytes) {
  scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(lane) + 1));
  Buffer& buffer = scratch_[static_cast<size_t>(lane)];
  if (buffer.bytes < bytes) {
    check(cudaStreamSynchronize(stream_));  // earlier ops may use the old one
    release(buffer);
    void* data = nullptr;
    check(cudaMalloc(&data, static_cast<size_t>(bytes)));
    buffer = {.data = static_cast<std::byte*>(data), .bytes = bytes};
  }
  return buffer.data;
}

void CudaDevice::release(Buffer& buffer) {
  cudaFree(buffer.data);
  buffer = {};
}

#endif

int64_t CudaDevice::scratch_bytes() const {
  int64_t bytes = 0;
  for (const Buffer& buffer : scratch_) bytes += buffer.bytes;
  return bytes;
}

}  // namespace sala::cuda

namespace sala {

std::unique_ptr<Device> open_cuda(int ordinal) {
  return std::make_unique<cuda::CudaDevice>(ordinal);
}

}  // namespace sala
