#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/cache.h"
#include "model/model.h"
#include "ops/device.h"

namespace sala {

/// How a model is run.
struct RunOptions {
  std::string backend = "cpu";  ///< "cpu" or "reference"
  int threads = 0;              ///< 0: every core
  ComputeMode compute = ComputeMode::automatic;
  DType kv = DType::bf16;
  SparsePolicy sparse = SparsePolicy::always;
  int chunk = 512;      ///< tokens of a prompt in one step
  int64_t context = 0;  ///< tokens of all sequences together
  int sequences = 1;
  int64_t logits = 1;  ///< rows of logits in one step, at most
};

/// Opens the device that `options` name. Throws Error for an unknown backend.
std::unique_ptr<Device> open_device(const RunOptions& options);

/// Memory that a run takes besides the weights: exact for the cache, an upper bound for the
/// workspace.
struct RunMemory {
  MemoryUse cache;
  int64_t workspace = 0;
};

/// Runs steps of a model over sequences whose memory it owns. One thread at a time.
class Runner {
 public:
  /// Throws Error, with the arithmetic, when this machine has too little memory for the context.
  Runner(const Model& model, Device& device, const RunOptions& options);

  const Model& model() const { return model_; }
  const RunOptions& options() const { return options_; }
  RunMemory memory() const { return memory_; }

  /// A new, empty sequence.
  Hold open() { return cache_.open(); }

  /// One sequence's part of a step.
  struct Row {
    Hold& hold;
    std::span<const int> tokens;
    int64_t logits = 0;  ///< how many of its last tokens' logits are wanted
    int64_t prompt = 0;  ///< length of its whole prompt (policy `hf`)
  };
  /// Feeds the next tokens of some sequences; gives the wanted logits [sum of logits, vocab], valid
  /// until the next step.
  In step(std::span<Row> rows);

  /// Feeds a prompt in chunks. `wanted` of its last tokens have their logits given to `on_logits`
  /// in order, some rows at a time; `on_progress` hears the tokens done after every chunk. Either
  /// may be empty.
  void prefill(Hold& hold, std::span<const int> tokens, int64_t wanted,
               const std::function<void(In logits)>& on_logits,
               const std::function<void(int64_t done)>& on_progress);

  OnBlocks on_blocks;

 private:
  const Model& model_;
  Device& device_;
  RunOptions options_;
  RunMemory memory_;
  Cache cache_;
  Arena arena_;
  Tensor logits_;
};

}  // namespace sala
