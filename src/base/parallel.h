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
/// too. Idle threads spin for some microseconds and then sleep.
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
  /// throw and must not call the pool.
  void run(int64_t count, const std::function<void(int64_t i, int thread)>& work);

 private:
  void loop(int thread);
  void take(int thread);

  // One loop: published by run() under a new generation, read by workers.
  const std::function<void(int64_t, int)>* work_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::jthread> workers_;
};

}  // namespace sala
