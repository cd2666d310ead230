#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "base/json.h"
#include "data.h"
#include "optimizer.h"

namespace sala::halo {

/// A mean in the making.
struct Mean {
  double sum = 0.0, weight = 0.0;
  void operator+=(const Mean& other) {
    sum += other.sum;
    weight += other.weight;
  }
  double value() const { return weight > 0.0 ? sum / weight : 0.0; }
};
using Metrics = std::map<std::string, Mean>;

/// How every stage trains.
struct TrainOptions {
  std::filesystem::path out;  ///< model directory that the stage makes
  Schedule schedule{};
  int64_t context = 256, batch = 16;  ///< tokens in a sequence, sequences in a step
  int64_t micro = 1024;               ///< tokens in one forward and backward: memory, never results
  double weight_decay = 0.0;
  double time_limit = 0.0;  ///< seconds; 0: none
  bool resume = false;
  std::string device = "cpu", type = "f32";
  torch::Device on() const { return torch::Device(device); }
  torch::ScalarType product_type() const;
};

/// A whole step: the number of its predictions, and the sum of their weights.
struct StepSize {
  double predictions = 0.0, weight = 0.0;
};

/// One forward and backward over some sequences of a step. The gradient of the step's loss is the
/// sum of these, so each divides by the size of the whole. Gives "loss" and whatever else is worth
/// a curve.
using Objective = std::function<Metrics(const Batch& batch, const StepSize& step)>;

/// Runs a stage: draws batches, steps the optimizer, reports, and writes `out`/training.safetensors
/// to go on from. Beside it lie log.jsonl, a JSON object a report, and loss.svg.
class Trainer {
 public:
  /// `trained` are the tensors that the stage changes; `save` writes the model to `out`.
  Trainer(TrainOptions options, const Data& data, const Weights& trained,
          std::function<void()> save);

  /// False when `out` is finished already and --resume says to leave it.
  bool needed() const { return needed_; }
  /// Trains to the end or to the time limit; both leave a model in `out`. True at the end.
  bool run(const Objective& objective);

 private:
  using Clock = std::chrono::steady_clock;
  Metrics step(const Objective& objective);
  void report(double gradient);
  void keep_log() const;
  void checkpoint();
  std::filesystem::path state_file() const { return options_.out / "training.safetensors"; }

  TrainOptions options_;
  const Data& data_;
  AdamW optimizer_;
  std::function<void()> save_;
  bool needed_ = true;
  int64_t step_ = 0, first_step_ = 0;
  double seconds_before_ = 0.0;  ///< of earlier runs
  Clock::time_point start_ = Clock::now(), reported_ = start_;
  Metrics since_report_;
  int64_t reported_step_ = 0;
};

}  // namespace sala::halo
