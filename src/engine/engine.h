#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/scheduler.h"

namespace sala {

/// Answers many requests at once with one model: a loop of steps that the scheduler plans. What a
/// request gets is a function of the request alone, whoever else is there and whatever is
/// remembered. submit(), cancel(), call(), drain() and counters() may be called from any thread.
class Engine {
 public:
  /// Why a request is not taken.
  enum class Refusal : uint8_t { none, full, draining };

  struct Counters {
    int64_t waiting = 0, running = 0;
    int64_t requests = 0;  ///< ended, all kinds
    int64_t prompt_tokens = 0, cached_tokens = 0, read_again_tokens = 0, generated_tokens = 0;
    int64_t drafted_tokens = 0, accepted_tokens = 0;
    int64_t preemptions = 0, steps = 0;
    int64_t steps_ahead = 0;  ///< launched before the one in front of them was finished
    int64_t pages = 0, free_pages = 0, snapshot_bytes = 0;
    double step_seconds = 0.0;      ///< in the model
    double schedule_seconds = 0.0;  ///< choosing what a step does
    double sample_seconds = 0.0;    ///< choosing tokens, and telling
  };

  /// The runner has room for limits.sequences sequences and for as many rows of logits and
  /// limits.step_logits more; runner and tokenizer must outlive the engine. `queue` requests wait
  /// at a time. Starts its thread.
  Engine(Runner& runner, const Tokenizer& tokenizer, const Scheduler::Limits& limits,
         int64_t queue);
  /// Cancels what is there and waits for the thread.
  ~Engine();

  /// Requests that may wait, and so may come together.
  int64_t queue_limit() const { return queue_limit_; }
  /// Tokens that a prompt and its reply may have together.
  int64_t longest() const { return scheduler_.longest(); }

  struct Submitted {
    uint64_t id = 0;  ///< 0 when it was refused
    Refusal refusal = Refusal::none;
  };
  /// Takes requests, all of them or none. The prompts with their replies fit longest(), and their
  /// tokens are in the vocabulary. `after` of the second and later ones: 1 stands for the first
  /// one's id. Throws Error that names a parameter of sampling or a stop string which is not valid.
  std::vector<Submitted> submit(std::vector<Request> requests);
  /// Ends a request within two steps; its last event says so. Nothing for one that is over.
  void cancel(uint64_t id);

  /// Has `work` done between two steps, on the engine's thread, and waits for it. Rethrows what it
  /// throws. The runner's free slots are what the scheduler leaves: `work` may take one and must
  /// give it back.
  void call(const std::function<void(Runner&)>& work);

  /// Takes no more requests; those that are there go on. True when they have ended in time, false
  /// when they have been cancelled.
  bool drain(std::chrono::milliseconds time);

  Counters counters() const;

 private:
  using Clock = std::chrono::steady_clock;

  /// A request with its reply in the making.
  struct Task {
    Request request;
    Writer writer;
    Usage usage{};
    Clock::time_point arrived{}, began{}, first_token{};
  };

  using Parts = std::vector<Scheduler::Part>;

  void loop();
  void step();
  void advance();
  Parts launch(const Parts& before);
  void take_in();
  void hear(const Scheduler::Part& part, In logits, int drawn);
  void hear_prompt(Task& task, Job& job, int64_t before, In logits, ReplyEvent& event);
  void write(Task& task, const Scheduler::Part& part, In logits, int drawn, ReplyEvent& event);
  void end(uint64_t id, ReplyEvent event);
  void publish();
  bool asked() const SALA_REQUIRES(mutex_);
  bool nobody_asks() const;

  Runner& runner_;
  const Tokenizer& tokenizer_;
  const int64_t queue_limit_;
  Scheduler scheduler_;             ///< the engine's thread only, but for longest()
  std::map<uint64_t, Task> tasks_;  ///< the engine's thread only
  Counters now_;                    ///< the engine's thread only
  Parts on_its_way_;                ///< launched; the engine's thread only

  mutable Mutex mutex_;
  Condition wake_, ended_;
  uint64_t next_id_ SALA_GUARDED_BY(mutex_) = 1;
  /// Not seen by the loop yet.
  std::vector<std::pair<uint64_t, Task>> arrived_ SALA_GUARDED_BY(mutex_);
  std::vector<uint64_t> cancelled_ SALA_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> calls_ SALA_GUARDED_BY(mutex_);
  int64_t queue_ SALA_GUARDED_BY(mutex_) = 0;  ///< waiting, as of the last step
  int64_t alive_ SALA_GUARDED_BY(mutex_) = 0;  ///< requests that have not ended
  bool draining_ SALA_GUARDED_BY(mutex_) = false;
  bool stopping_ SALA_GUARDED_BY(mutex_) = false;
  Counters counters_ SALA_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace sala
