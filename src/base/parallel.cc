#include "base/parallel.h"

#include <sched.h>

#include <limits>

#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sala {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

/// Waits until `value` differs from `old`: a short spin, since loops of one step follow each other
/// within microseconds, then sleep.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old) {
  for (int i = 0; i < 2000; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { loop(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
}

void ThreadPool::run(int64_t count, const std::function<void(int64_t, int)>& work) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) work(i, 0);
    return;
  }
  SALA_CHECK(count <= std::numeric_limits<int32_t>::max(), "{} pieces", count);
  work_ = &work;
  count_ = count;
  done_.store(0, std::memory_order_relaxed);
  left_.store(count, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take(0);
  for (int32_t done = done_.load(std::memory_order_acquire); done != count;
       done = done_.load(std::memory_order_acquire))
    wait_for_change(done_, done);
}

void ThreadPool::take(int thread) {
  int32_t mine = 0;
  int64_t count = 0;
  while (true) {
    const int64_t left = left_.fetch_sub(1, std::memory_order_acquire);
    if (left <= 0) break;
    count = count_;
    (*work_)(count - left, thread);
    ++mine;
  }
  // As soon as all are done the caller may begin another loop.
  if (mine > 0 && done_.fetch_add(mine, std::memory_order_acq_rel) + mine == count)
    done_.notify_one();
}

void ThreadPool::loop(int thread) {
  uint32_t seen = 0;
  while (true) {
    wait_for_change(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    take(thread);
  }
}

}  // namespace sala
