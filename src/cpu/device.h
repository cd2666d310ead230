#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/parallel.h"
#include "cpu/isa.h"
#include "cpu/limits.h"
#include "ops/device.h"

namespace sala::cpu {

/// The CPU backend: vector kernels chosen for this machine's instruction set, on `threads` threads.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads);
  int threads() const override { return pool_.threads(); }
  bool native_bf16() const override { return has_fast_bf16(); }
  int64_t scratch_bytes() const override;
  Limits limits() override;
  ThreadPool& pool() { return pool_; }

  /// At least `bytes` of scratch for the op that runs now, 64-byte aligned, contents undefined;
  /// `lane` tells independent buffers of one op apart. Grows to the largest request and then
  /// allocates no more.
  std::byte* scratch(int lane, int64_t bytes);

 private:
  struct Buffer {
    Storage storage;
    int64_t bytes = 0;
  };
  ThreadPool pool_;
  std::vector<Buffer> scratch_;
  std::optional<LimitProbe> probe_;
};

/// The device on which an op of this backend runs.
inline CpuDevice& self(Device& device) { return static_cast<CpuDevice&>(device); }

Ops cpu_ops();

}  // namespace sala::cpu

namespace sala {

/// The CPU backend; threads = 0 takes every core that this process may use.
std::unique_ptr<Device> open_cpu(int threads = 0);

}  // namespace sala
