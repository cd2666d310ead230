#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "base/mutex.h"
#include "engine/engine.h"

namespace sala {

/// What the server counts, as Prometheus reads it. Any thread.
class Metrics {
 public:
  void count_answer(int status);
  void count_reply(const ReplyEvent& last);
  /// The text format of Prometheus (exposition format 0.0.4), under names of our own and the names
  /// by which vLLM's dashboards know them.
  std::string text(const Engine::Counters& engine, const std::string& model) const;

 private:
  /// Counts of values at most as large as each bound, and their sum.
  struct Histogram {
    static constexpr std::array<double, 14> kBounds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                       2.5,  5,     10,   30,  60,   300, 1800};
    std::array<int64_t, kBounds.size()> counts{};
    int64_t count = 0;
    double sum = 0.0;
    void add(double value);
  };

  mutable Mutex mutex_;
  std::map<int, int64_t> answers_ SALA_GUARDED_BY(mutex_);          ///< by status
  std::map<std::string, int64_t> replies_ SALA_GUARDED_BY(mutex_);  ///< by why they ended
  Histogram first_token_ SALA_GUARDED_BY(mutex_);                   ///< seconds
  Histogram per_token_ SALA_GUARDED_BY(mutex_);
  Histogram whole_ SALA_GUARDED_BY(mutex_);
};

}  // namespace sala
