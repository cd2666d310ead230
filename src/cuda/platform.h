#pragma once

/// What kernels are written against: the CUDA toolkit's own names, by nvcc or by the emulation on
/// the host (SALA_CUDA_EMULATION).
#ifdef SALA_CUDA_EMULATION
#include "cuda/emulation/emulation.h"
#else
#include <cuda_runtime.h>
#endif

#include "cuda/device.h"

namespace sala::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFF;
/// Scores times this have weights that are powers of two.
inline constexpr float kLog2E = 1.44269504f;

/// The block's shared memory, which a launch gave sizeof(T) bytes; NaN or anything at first. A
/// kernel describes all of it in one struct.
template <class T>
__device__ T& shared() {
#ifdef SALA_CUDA_EMULATION
  return *reinterpret_cast<T*>(emulation::shared_memory());
#else
  extern __shared__ __align__(16) unsigned char bytes[];
  return *reinterpret_cast<T*>(bytes);
#endif
}

/// The first thing that every thread of a kernel does, but for reading what no kernel writes: waits
/// until the kernels launched before are done and what they wrote is there. Until then they may
/// still run, where the GPU can begin a kernel that early, and from here on so may the next one,
/// which hides the time between two kernels.
__device__ inline void wait_for_earlier() {
#ifdef SALA_CUDA_EMULATION
  emulation::wait_for_earlier();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

/// Runs `kernel` behind all earlier work of the device: grid.x * y * z blocks of `threads` threads
/// (a multiple of 32) with `shared` bytes of shared memory. Nothing where the grid is empty.
template <class... Parameters, class... Arguments>
void launch(Device& device, Grid grid, int threads, size_t shared, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (grid.x * grid.y * grid.z == 0) return;
  SALA_CHECK(grid.x < (int64_t{1} << 31) && grid.y < 65536 && grid.z < 65536,
             "a grid of {} x {} x {} blocks", grid.x, grid.y, grid.z);
#ifdef SALA_CUDA_EMULATION
  self(device).command(emulation::Kernel{
      .grid = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
               static_cast<unsigned>(grid.z)},
      .block = {static_cast<unsigned>(threads), 1, 1},
      .shared = shared,
      .thread = [kernel, ... values = Parameters(arguments)] { kernel(values...); }});
#else
  if (shared > (48 << 10))
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                    static_cast<unsigned>(grid.z)};
  config.blockDim = {static_cast<unsigned>(threads), 1, 1};
  config.dynamicSmemBytes = shared;
  config.stream = self(device).stream();
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = self(device).launches_early() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
#endif
}

}  // namespace sala::cuda
