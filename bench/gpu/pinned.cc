// Memory of the host that kernels reach, in the place of tensor/allocate.cc.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "tensor/tensor.h"

namespace sala {

Storage allocate(int64_t bytes) {
  void* data = nullptr;
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  if (cudaHostAlloc(&data, size, cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess)
    fail("cannot pin {} bytes", bytes);
  std::memset(data, 0, size);
  return {static_cast<std::byte*>(data), [](std::byte* p) { cudaFreeHost(p); }};
}

}  // namespace sala
