#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace sala {

/// Cores that this process may run on.
int available_cores();

/// A team of threads that work on one loop at a time. One thread at a time may call it; it works
/// too. Idle threads spin for some microseconds and then sleep. A loop waits for its pieces, not
/// for threads: one that the system runs elsewhere, or nowhere, holds up only what it has taken.
class ThreadPool {
 public:
  /// `threads` >= 1, the calling thread included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls work(i, thread) once for every i in [0, count), taken in ascending order by whichever
  /// thread is free, and returns when all are done. `thread` in [0, threads()). `work` must not
  /// throw and must not call the pool. Fewer than 2^31 pieces.
  void run(int64_t count, const std::function<void(int64_t i, int thread)>& work);

 private:
  void loop(int thread);
  void take(int thread);

  // One loop: published by run() with the pieces that are left, read by who has taken one. Who
  // comes late takes one of the next loop, or none.
  const std::function<void(int64_t, int)>* work_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> left_{0};  ///< pieces that nobody has taken; less by one for each who looked
  std::atomic<int32_t> done_{0};  ///< pieces
  std::atomic<uint32_t> generation_{0};  ///< of loops, for those that sleep
  std::atomic<bool> stop_{false};
  std::vector<std::jthread> workers_;
};

}  // namespace sala
