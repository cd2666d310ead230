// gpu_check tests [GoogleTest flags]     the tests of ops and models, on a GPU
// gpu_check kernels [FILE.json]          the kernels' times beside what the GPU allows
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "base/error.h"
#include "kernels.h"

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what != "tests" && what != "kernels") {
    std::fprintf(stderr, "gpu_check: expected \"tests\" or \"kernels\"\n");
    return 2;
  }
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    std::fprintf(stderr, "gpu_check: skipped, no CUDA device: %s\n", cudaGetErrorString(status));
    return 77;
  }
  if (what == "tests") {
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
  }
  try {
    time_kernels(argc > 2 ? argv[2] : "");
  } catch (const sala::Error& error) {
    std::fprintf(stderr, "gpu_check: %s\n", error.what());
    return 1;
  }
}
