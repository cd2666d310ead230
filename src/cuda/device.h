#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/parallel.h"
#include "ops/device.h"

#ifdef SALA_CUDA_EMULATION
#include <deque>
#include <variant>

#include "cuda/emulation/emulation.h"
#include "cuda/emulation/memory.h"
#else
#include <cuda_runtime.h>
#endif

namespace sala::cuda {

#ifndef SALA_CUDA_EMULATION
/// Throws Error with CUDA's own words.
void check(cudaError_t status);
/// Whether the kernels' code for this GPU waits for earlier ones (platform.h): that for another
/// one, compiled again by the driver, may not.
bool kernels_wait();
/// Whether there is code of compute capability 9.0 for this GPU with products of warpgroups.
bool kernels_have_warpgroups();
#endif

/// One NVIDIA GPU, or its emulation on the host: ops and copies run one after the other, in the
/// order of the calls, behind the host's back until it waits for them. Ops take memory of the
/// device, or of the host where it came from allocate_on_host().
class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;
  bool native_bf16() const override { return true; }
  bool decodes_to_bf16() const override { return warpgroups_; }
  int64_t scratch_bytes() const override;

  bool of_host() const override { return false; }
  Storage allocate(int64_t bytes) override;
  Storage allocate_on_host(int64_t bytes) override;
  void write(std::byte* to, std::span<const std::byte> from) override;
  void read(std::span<std::byte> to, const std::byte* from) override;
  void copy(std::byte* to, const std::byte* from, int64_t bytes) override;
  void fill(std::byte* to, std::byte value, int64_t bytes) override;
  int64_t available() const override;
  void wait() override;
  int64_t mark() override;
  void wait_for(int64_t mark) override;
#ifndef SALA_CUDA_EMULATION
  Limits limits() override;
#endif
  /// Captured graphs, of short steps.
  std::unique_ptr<Recordings> recordings() override;

  /// At least `bytes` of scratch for the op that runs now, 256-byte aligned, contents undefined;
  /// `lane` tells independent buffers of one op apart. Grows to the largest request and then
  /// allocates no more.
  std::byte* scratch(int lane, int64_t bytes);
  /// Whether the GPU has the instructions of warpgroup.h, and the kernels are compiled for them.
  bool multiplies_by_warpgroups() const { return warpgroups_; }

#ifdef SALA_CUDA_EMULATION
  /// What a GPU would be told to do, done when the host waits for it, with the device's memory
  /// within reach; while a step is recorded it is kept, too.
  using Command = std::variant<std::function<void()>, emulation::Kernel>;
  void command(Command command);
  std::vector<Command> record(const std::function<void()>& work);
#else
  cudaStream_t stream() const { return stream_; }
  /// Whether a kernel may begin before the one in front of it has ended.
  bool launches_early() const { return launches_early_; }
  /// How often scratch has moved: commands recorded before that name memory that is gone.
  int64_t moves() const { return moves_; }
#endif

 private:
  static constexpr int kMarks = 2;
  bool warpgroups_ = false;
  int64_t marked_ = 0;
#ifdef SALA_CUDA_EMULATION
  struct Asked {
    Command command;
    std::unique_ptr<emulation::Launch> launch{};  ///< of a kernel that has begun
  };
  void do_until(int64_t count);
  bool begin(Asked& asked);
  void finish(Asked& asked);

  std::shared_ptr<emulation::DeviceMemory> memory_;
  std::deque<Asked> asked_;  ///< and not done
  int64_t done_ = 0;         ///< commands
  int64_t marks_[kMarks] = {};
  std::vector<Storage> scratch_;
  std::vector<int64_t> scratch_sizes_;
  std::vector<Command>* record_ = nullptr;
#else
  struct Buffer {
    std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  /// Pinned memory through which the host's bytes pass.
  struct Staging {
    std::byte* data = nullptr;
    cudaEvent_t passed = nullptr;  ///< the last copy out of it
  };
  void bind() const;
  void release(Buffer& buffer);

  int ordinal_;
  cudaStream_t stream_ = nullptr;
  bool launches_early_ = false;
  cudaEvent_t marks_[kMarks] = {};
  std::vector<Buffer> scratch_;
  int64_t moves_ = 0;
  Staging staging_[2];
  int turn_ = 0;
  std::optional<ThreadPool> pool_;
#endif
};

/// The device on which an op of this backend runs.
inline CudaDevice& self(Device& device) { return static_cast<CudaDevice&>(device); }

Ops cuda_ops();

}  // namespace sala::cuda

namespace sala {

/// GPU number `ordinal`. Throws Error where there is none, or one that this program has no kernels
/// for. Of emulated ones number 0 has what any GPU has, the others not what only some have.
std::unique_ptr<Device> open_cuda(int ordinal = 0);

}  // namespace sala
