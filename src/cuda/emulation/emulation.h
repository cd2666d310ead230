#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>

/// CUDA's execution model on the host, for tests without a GPU: kernels are compiled by the host's
/// compiler, the threads of a block are fibers, blocks run one after the other.
///
/// What is found that a GPU would not tell: a missing barrier (after every barrier the warps run in
/// ascending or descending order, by turns of a seed, each as far as the next barrier of the block,
/// and so do the threads of a warp as far as the warp's next operation), shared memory that
/// nobody wrote (NaN in every block), reads of asynchronous copies before they were waited for
/// and what such a copy overwrites too early (in one block they are made when waited for, in
/// another at once), barriers that some threads of a warp or block never reach (panic), a kernel
/// that reads what the one before it writes without waiting for it (the first block begins before
/// that one has run), and with the address sanitizer everything outside a buffer.
#define __global__
#define __device__
#define __launch_bounds__(...)

namespace sala::cuda {

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulation {

inline constexpr int kWarp = 32;

/// Where the thread that runs now is.
struct Place {
  Index3 thread, block, block_dim, grid_dim;
};
extern Place place;

/// What a launch is told: `thread` is run for each thread of each block, with `shared` bytes of
/// shared memory.
struct Kernel {
  Index3 grid, block;
  size_t shared = 0;
  std::function<void()> thread;
};

/// A launch on its way. Panics when threads wait for each other for ever, or end without having
/// waited for earlier kernels.
class Launch {
 public:
  explicit Launch(Kernel kernel);
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  /// Runs the first block's threads until they wait for earlier kernels, which need not have run.
  void begin();
  /// Runs the rest.
  void end();

 private:
  struct Running;
  Kernel kernel_;
  std::unique_ptr<Running> running_;
};

/// Waits for the kernels launched before.
void wait_for_earlier();

/// The shared memory of the block that runs now.
std::byte* shared_memory();
void block_barrier();
/// Gives `value` (at most 32 bytes) to the warp and waits until all 32 lanes have; returns what
/// they gave, `lane` after `lane` 32 bytes apart, valid until the thread's second warp operation
/// from here.
const std::byte* exchange(const void* value, size_t bytes);
/// An asynchronous copy of this thread, made at once or when a wait asks for it.
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_copies(int groups_left);
/// Other asynchronous work of this thread, done at once or when a wait asks for it; all lanes of a
/// warp have the same.
void work_later(std::function<void()> work);
void wait_work();

/// A barrier in shared memory (mbarrier): a phase ends when `expected` threads have arrived.
struct Barrier {
  uint16_t expected, left;
  uint32_t phase;
};
void arrive(Barrier& barrier);
/// Waits until the phase of this parity has ended.
void wait_phase(const Barrier& barrier, uint32_t parity);

int lane();

template <class T>
T from_lane(const std::byte* gifts, int lane) {
  T value;
  std::memcpy(&value, gifts + 32 * lane, sizeof(T));
  return value;
}

}  // namespace emulation
}  // namespace sala::cuda

#define threadIdx (::sala::cuda::emulation::place.thread)
#define blockIdx (::sala::cuda::emulation::place.block)
#define blockDim (::sala::cuda::emulation::place.block_dim)
#define gridDim (::sala::cuda::emulation::place.grid_dim)

/// The toolkit's vectors: accesses of 16 bytes on a boundary of 16.
struct alignas(16) float4 {
  float x, y, z, w;
};

inline void __syncthreads() { ::sala::cuda::emulation::block_barrier(); }
inline void __syncwarp() {
  const char nothing = 0;
  ::sala::cuda::emulation::exchange(&nothing, 1);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  using namespace ::sala::cuda::emulation;
  return from_lane<T>(exchange(&value, sizeof(T)), lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta) {
  using namespace ::sala::cuda::emulation;
  const std::byte* gifts = exchange(&value, sizeof(T));
  return from_lane<T>(gifts, lane() + delta < kWarp ? lane() + delta : lane());
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta) {
  using namespace ::sala::cuda::emulation;
  const std::byte* gifts = exchange(&value, sizeof(T));
  return from_lane<T>(gifts, lane() >= delta ? lane() - delta : lane());
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  using namespace ::sala::cuda::emulation;
  const std::byte* gifts = exchange(&vote, sizeof(vote));
  unsigned votes = 0;
  for (int i = 0; i < kWarp; ++i) votes |= (from_lane<bool>(gifts, i) ? 1u : 0u) << i;
  return votes;
}

/// Atomics: blocks and fibers take turns, so that plain code is one.
template <class T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T>
T atomicMax(T* at, T value) {
  const T old = *at;
  *at = value > old ? value : old;
  return old;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
/// Four of the bytes of x (0 to 3) and y (4 to 7), each named by four bits of `order`.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned order) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned chosen = 0;
  for (int i = 0; i < 4; ++i)
    chosen |= static_cast<unsigned>(bytes >> 8 * (order >> 4 * i & 7) & 0xFF) << 8 * i;
  return chosen;
}
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
