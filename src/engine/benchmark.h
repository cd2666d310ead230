#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/random.h"
#include "engine/runner.h"

namespace sala {

/// What is measured: `tokens` tokens behind `depth` others, read as a prompt or generated, that by
/// several sequences in each step.
struct BenchCase {
  enum class Phase : uint8_t { prompt, gen };
  Phase phase = Phase::prompt;
  int64_t tokens = 0;
  int64_t depth = 0;  ///< whole pages, filled with noise
  int64_t sequences = 1;
};

/// Medians over its samples; rates a second, operations counting a multiply-add as two.
struct BenchRow {
  BenchCase what;
  double tokens = 0;      ///< a second
  double bytes = 0;       ///< that the steps must read (step_work.h)
  double operations = 0;  ///< that they must do
  /// The time that these bytes or operations take at least, whichever is longer, of the time they
  /// took: by the limits measured right before and behind each sample.
  double share = 0;
};

/// The context that a runner must have for these cases, all sequences together.
int64_t context_of(const std::vector<BenchCase>& cases, int page);

/// Measures steps of a model on random tokens. Prompts go in steps of the runner's chunk, each a
/// sample; of generated tokens 16 are a sample.
class Benchmark {
 public:
  /// The device is the runner's.
  Benchmark(Runner& runner, Device& device);

  /// How many samples measure() takes.
  int64_t samples(const BenchCase& what) const;
  /// Calls `on_sample` after each of them.
  BenchRow measure(const BenchCase& what, const std::function<void()>& on_sample = {});
  /// Medians over everything measured so far.
  Limits limits() const;

 private:
  struct Sample {
    double seconds = 0, bytes = 0, matmul = 0, mixing = 0;
    double least = 0;  ///< seconds that the limits beside it allow
    int64_t tokens = 0;
    void add(const Sample& other);
  };
  int64_t sample_tokens(const BenchCase& what) const;
  std::vector<Hold> begin(const BenchCase& what);
  void launch(std::vector<Hold>& holds, std::span<const int> tokens, bool logits, Sample& sample);
  void read(std::vector<Hold>& holds, int64_t tokens, bool logits, Sample& sample);
  void write(std::vector<Hold>& holds, int64_t tokens, Sample& sample);
  double least_seconds(const Sample& sample, const Limits& limits) const;

  Runner& runner_;
  Device& device_;
  Compute matmul_, mixing_;  ///< types in which most is computed
  Random random_{1};         ///< of the tokens
  std::vector<Limits> measured_;
};

}  // namespace sala
