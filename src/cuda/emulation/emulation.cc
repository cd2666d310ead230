#include "cuda/emulation/emulation.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"

// Of many fibers that wait, the address sanitizer takes frames for dead that it keeps to find uses
// after a return.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }
#endif
#endif

namespace sala::cuda::emulation {

Place place;

namespace {

namespace context = boost::context;

constexpr size_t kStack = 64 << 10;

enum class Wait : uint8_t { none, warp, block, phase, earlier, for_ever };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  context::fiber fiber;
  Index3 index;
  Wait wait = Wait::none;
  bool waited = false;  // for earlier kernels
  int warp_operations = 0;
  std::vector<Copy> copies;              // not yet committed
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<std::function<void()>> work;
  const Barrier* barrier = nullptr;  // whose phase it waits for
  uint32_t parity = 0;
};

struct Warp {
  std::byte gifts[2][kWarp * 32];
  int waiting = 0;
};

/// The block that runs now.
struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::unique_ptr<std::byte[]> shared;
  context::fiber scheduler;
  size_t current = 0;
  size_t waiting = 0, ended = 0;  // threads
  bool early = false;             // earlier kernels may not have run
  uint64_t seed = 0, phase = 0;
};

Block* running = nullptr;
uint64_t launches = 0;

Thread& self() { return running->threads[running->current]; }

void yield(Wait wait) {
  self().wait = wait;
  running->scheduler = std::move(running->scheduler).resume();
}

/// Lets thread `i` run until it waits or ends.
void resume(Block& block, size_t i) {
  block.current = i;
  Thread& thread = block.threads[i];
  place.thread = thread.index;
  thread.fiber = std::move(thread.fiber).resume();
}

void release(Block& block, Wait wait, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i)
    if (block.threads[i].wait == wait) block.threads[i].wait = Wait::none;
}

/// Runs the threads of warp w in one direction until all of them wait for the block or have ended.
bool advance(Block& block, size_t w, bool ascending) {
  bool moved = false;
  for (bool again = true; again;) {
    again = false;
    for (size_t n = 0; n < kWarp; ++n) {
      const size_t i = w * kWarp + (ascending ? n : kWarp - 1 - n);
      if (block.threads[i].wait != Wait::none) continue;
      resume(block, i);
      moved = true;
    }
    if (block.warps[w].waiting == kWarp) {
      block.warps[w].waiting = 0;
      release(block, Wait::warp, w * kWarp, (w + 1) * kWarp);
      again = true;
    }
  }
  return moved;
}

bool ended(const Barrier& barrier, uint32_t parity) { return barrier.phase % 2 != parity; }

/// Runs every warp as far as it gets, in one direction, and releases whoever waited for the block.
bool pass(Block& block) {
  const size_t count = block.threads.size();
  const bool ascending = random_bits(block.seed, block.phase) % 2 == 0;
  bool moved = false;
  for (size_t n = 0; n < block.warps.size(); ++n)
    moved |= advance(block, ascending ? n : block.warps.size() - 1 - n, ascending);
  for (Thread& thread : block.threads)
    if (thread.wait == Wait::phase && ended(*thread.barrier, thread.parity)) {
      thread.wait = Wait::none;
      moved = true;
    }
  if (block.waiting > 0 && block.waiting + block.ended == count) {
    block.waiting = 0;
    ++block.phase;
    release(block, Wait::block, 0, count);
    moved = true;
  }
  return moved;
}

/// Makes the threads of a block.
void begin_block(Block& block, Index3 dim, const std::function<void()>& body) {
  // Stacks that are handed on from block to block: fresh ones would each cost the system's zeroes.
  static context::pooled_fixedsize_stack stacks(kStack);
  for (size_t i = 0; i < block.threads.size(); ++i) {
    Thread& thread = block.threads[i];
    const auto n = static_cast<unsigned>(i);
    thread.index = {n % dim.x, n / dim.x % dim.y, n / dim.x / dim.y};
    thread.fiber = context::fiber(std::allocator_arg, stacks, [&body](context::fiber&& scheduler) {
      running->scheduler = std::move(scheduler);
      body();
      wait_copies(0);
      wait_work();
      SALA_CHECK(self().waited, "an emulated kernel has not waited for earlier ones");
      ++running->ended;
      self().wait = Wait::for_ever;
      return std::move(running->scheduler);
    });
  }
}

void end_block(Block& block) {
  while (block.ended < block.threads.size())
    SALA_CHECK(pass(block),
               "emulated kernel hangs in block {} {} {}: {} of {} threads wait at a barrier of the "
               "block, {} have ended, the rest at one of a warp or for a phase",
               place.block.x, place.block.y, place.block.z, block.waiting, block.threads.size(),
               block.ended);
}

}  // namespace

/// The blocks of a launch, one after the other.
struct Launch::Running {
  explicit Running(const Kernel& launched) : kernel(launched), launch(launches++) {
    const Index3 dim = kernel.block;
    threads = static_cast<size_t>(dim.x) * dim.y * dim.z;
    SALA_CHECK(threads > 0 && threads <= 1024 && threads % kWarp == 0, "{} threads in a block",
               threads);
    count = uint64_t{kernel.grid.x} * kernel.grid.y * kernel.grid.z;
  }

  void make() {
    block.threads.resize(threads);
    block.warps.resize(threads / kWarp);
    block.shared = std::make_unique<std::byte[]>(kernel.shared);
    std::memset(block.shared.get(), 0xFF, kernel.shared);
    block.seed = random_bits(launch, number);
    begin_block(block, kernel.block, kernel.thread);
  }
  /// Does `work` as this block.
  template <class Work>
  void inside(const Work& work) {
    SALA_CHECK(running == nullptr, "a kernel launches another");
    const Index3 grid = kernel.grid;
    const auto at = [](uint64_t i) { return static_cast<unsigned>(i); };
    place = {
        .thread = {},
        .block = {at(number % grid.x), at(number / grid.x % grid.y), at(number / grid.x / grid.y)},
        .block_dim = kernel.block,
        .grid_dim = grid};
    running = &block;
    work();
    running = nullptr;
  }

  const Kernel& kernel;
  uint64_t launch, number = 0, count = 0;
  size_t threads = 0;
  Block block;
};

Launch::Launch(Kernel kernel) : kernel_(std::move(kernel)) {}
Launch::~Launch() = default;

void Launch::begin() {
  running_ = std::make_unique<Running>(kernel_);
  Running& r = *running_;
  r.make();
  r.block.early = true;
  r.inside([&] {
    for (size_t i = 0; i < r.threads; ++i) {
      resume(r.block, i);
      SALA_CHECK(r.block.threads[i].wait == Wait::earlier,
                 "an emulated kernel does not begin by waiting for earlier ones");
    }
  });
  r.block.early = false;
  release(r.block, Wait::earlier, 0, r.threads);
}

void Launch::end() {
  if (running_ == nullptr) begin();
  Running& r = *running_;
  for (; r.number < r.count; ++r.number) {
    if (r.number > 0) {
      r.block = {};
      r.make();
    }
    r.inside([&] { end_block(r.block); });
  }
  running_ = nullptr;
}

void wait_for_earlier() {
  self().waited = true;
  if (running->early) yield(Wait::earlier);
}

std::byte* shared_memory() { return running->shared.get(); }

int lane() { return static_cast<int>(running->current % kWarp); }

void block_barrier() {
  ++running->waiting;
  yield(Wait::block);
}

const std::byte* exchange(const void* value, size_t bytes) {
  Thread& thread = self();
  Warp& warp = running->warps[running->current / kWarp];
  std::byte* gifts = warp.gifts[thread.warp_operations++ % 2];
  std::memcpy(gifts + 32 * lane(), value, bytes);
  ++warp.waiting;
  yield(Wait::warp);
  return gifts;
}

void copy_later(void* to, const void* from, size_t bytes) {
  if (running->seed % 2 == 0) {
    std::memcpy(to, from, bytes);
    return;
  }
  self().copies.push_back({to, from, bytes});
}

void commit_copies() {
  Thread& thread = self();
  thread.groups.push_back(std::move(thread.copies));
  thread.copies.clear();
}

void wait_copies(int groups_left) {
  Thread& thread = self();
  while (static_cast<int>(thread.groups.size()) > groups_left) {
    for (const Copy& copy : thread.groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    thread.groups.pop_front();
  }
}

void work_later(std::function<void()> work) {
  if (running->seed / 2 % 2 == 0)
    work();
  else
    self().work.push_back(std::move(work));
}

void wait_work() {
  const auto works = std::exchange(self().work, {});
  for (const auto& work : works) work();
}

void arrive(Barrier& barrier) {
  SALA_CHECK(barrier.left > 0, "more than {} threads arrive at a barrier", barrier.expected);
  if (--barrier.left > 0) return;
  barrier.left = barrier.expected;
  // Those who have waited may go on before this thread does.
  self().barrier = &barrier;
  self().parity = barrier.phase++ % 2;
  yield(Wait::phase);
}

void wait_phase(const Barrier& barrier, uint32_t parity) {
  while (!ended(barrier, parity)) {
    self().barrier = &barrier;
    self().parity = parity;
    yield(Wait::phase);
  }
}

}  // namespace sala::cuda::emulation
