#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

/// std::mutex as clang's thread-safety analysis understands it (-Wthread-safety, the `clang`
/// preset): a member that is SALA_GUARDED_BY(mutex_) is used under a Lock of it, or it does not
/// compile. g++ sees nothing of this.
#if defined(__clang__)
#define SALA_ANNOTATE(x) __attribute__((x))
#else
#define SALA_ANNOTATE(x)
#endif
#define SALA_GUARDED_BY(mutex) SALA_ANNOTATE(guarded_by(mutex))
#define SALA_REQUIRES(mutex) SALA_ANNOTATE(requires_capability(mutex))

namespace sala {

class SALA_ANNOTATE(capability("mutex")) Mutex {
 public:
  void lock() SALA_ANNOTATE(acquire_capability()) { mutex_.lock(); }
  void unlock() SALA_ANNOTATE(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

/// Holds a mutex for the rest of its scope.
class SALA_ANNOTATE(scoped_lockable) Lock {
 public:
  explicit Lock(Mutex& mutex) SALA_ANNOTATE(acquire_capability(mutex)) : mutex_(mutex) {
    mutex.lock();
  }
  ~Lock() SALA_ANNOTATE(release_capability()) { mutex_.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex& mutex_;
};

/// Waits under a mutex for what other threads do. Waiting returns early at times: ask in a loop.
class Condition {
 public:
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }
  void wait(Mutex& mutex) SALA_REQUIRES(mutex) { condition_.wait(mutex); }
  /// False when the time has come.
  bool wait_until(Mutex& mutex, std::chrono::steady_clock::time_point time) SALA_REQUIRES(mutex) {
    return condition_.wait_until(mutex, time) == std::cv_status::no_timeout;
  }

 private:
  std::condition_variable_any condition_;
};

}  // namespace sala
