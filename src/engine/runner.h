#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/cache.h"
#include "model/model.h"
#include "ops/device.h"

namespace sala {

/// How a model is run.
struct RunOptions {
  std::string backend = "cpu";  ///< "cpu", "reference", or "cuda" with the number of a GPU
                                ///< ("cuda:1") where there are several
  int threads = 0;              ///< 0: every core
  int gpu_layers = -1;          ///< of a model, the last ones, the others being the CPU's; -1: all
  ComputeMode compute = ComputeMode::automatic;
  KvType kv = KvType::bf16;
  SparsePolicy sparse = SparsePolicy::always;
  int chunk = 512;      ///< tokens of a prompt in one step
  int64_t context = 0;  ///< tokens of all sequences together
  /// Bytes of keys and values in memory; what does not fit lies in a file, and blocks are brought
  /// back when a query chooses them; on a GPU whole layers that do not fit lie in the host's
  /// memory, where kernels read them. -1: all in memory.
  int64_t kv_memory = -1;
  int64_t cache_ram = 0;  ///< bytes of memory for snapshots of states
  /// Bytes of files for keys, values and snapshots that memory lacks. -1: what the keys and values
  /// need.
  int64_t cache_disk = -1;
  std::filesystem::path cache_dir{};  ///< where the files go; empty: the system's temporary one
  int sequences = 1;
  int64_t logits = 1;  ///< rows of logits in one step, at most
  int draft = 0;       ///< tokens of replies that are drafted in one step, at most: below `logits`
};

/// Tokens between two snapshots of a long text; what the budget has no room for is thinned out.
inline constexpr int64_t kSnapshotEvery = 4096;

/// Layers of a model that are the host's, before it is made.
int host_layers(const ModelConfig& config, const RunOptions& options);

/// Opens the device that `options` name. Throws Error for an unknown backend.
std::unique_ptr<Device> open_device(const RunOptions& options);

/// Memory that a run takes besides the weights: exact for the cache, an upper bound for the
/// workspace.
struct RunMemory {
  MemoryUse cache;  ///< kv: what lies in memory
  int64_t snapshots = 0;
  int64_t workspace = 0;
  int64_t disk = 0;     ///< bytes of files, keys and values first
  int64_t on_host = 0;  ///< bytes of the host beside a GPU: layers of its own, and keys and values
                        ///< that the GPU reads there

  int64_t total() const { return cache.total() + snapshots + workspace + on_host; }
};

/// Runs steps of a model over sequences whose memory it owns. One thread at a time.
class Runner {
 public:
  /// Throws Error, with the arithmetic, when this machine has too little memory for the context.
  Runner(const Model& model, Device& device, const RunOptions& options);

  const Model& model() const { return model_; }
  const RunOptions& options() const { return options_; }
  RunMemory memory() const { return memory_; }

  /// A new sequence that has what is remembered of `prompt`, whose last token at least is left to
  /// read.
  Hold open(std::span<const int> prompt = {}) {
    return cache_.open(prompt.first(prompt.empty() ? 0 : prompt.size() - 1));
  }
  Cache& cache() { return cache_; }
  const Cache& cache() const { return cache_; }

  /// One sequence's part of a step.
  struct Row {
    Hold& hold;
    std::span<const int> tokens;
    int64_t logits = 0;  ///< how many of its last tokens' logits are wanted
    int64_t prompt = 0;  ///< length of its whole prompt (policy `hf`)
    /// How the token behind its last is drawn, where the device can: then its only logits stay
    /// there.
    std::optional<SampleRow> draw{};
  };
  /// Feeds the next tokens of some sequences; gives the wanted logits [sum of logits, vocab], valid
  /// until the next step. Rows that drawn() has a token for are not there.
  In step(std::span<Row> rows) {
    launch(rows);
    return finish();
  }
  /// The tokens that the device has drawn in the last step, [sum of logits]; kNoToken where there
  /// are logits to be read.
  std::span<const int32_t> drawn() const { return drawn_; }

  /// Begins a step: holds go on at once, finish() gives what step() does. A device that works
  /// behind the host's back does so meanwhile.
  void launch(std::span<Row> rows);
  /// Waits for the step that was launched first.
  In finish();
  /// Whether the next step can be launched before the last one is finished, so that the device need
  /// not wait for the host: when all tokens behind it are drawn there. In the next step,
  /// drawn_id(i) stands for the one of logits i.
  bool can_go_ahead() const;
  /// Steps that are launched and not finished.
  int64_t launched() const { return std::ssize(launched_); }
  /// Finishes them as far as anybody cares.
  void forget_launched() { launched_.clear(); }

  /// How a text is read.
  struct Reading {
    int64_t wanted = 0;  ///< how many of its last tokens have their logits given to on_logits
    std::function<void(In logits)> on_logits{};  ///< in order, some rows at a time
    /// Hears after every step how many tokens it has read; false stops.
    std::function<bool(int64_t read)> on_progress{};
    std::span<const int64_t> marks{};  ///< lengths, ascending, at which a snapshot may be wanted
  };
  /// Reads what `hold` has not read of `text`, in steps of a chunk that end at the marks, and takes
  /// snapshots there and every few thousand tokens. False when it was stopped.
  bool read(Hold& hold, std::span<const int> text, const Reading& how);

  OnBlocks on_blocks;

 private:
  /// A step on its way.
  struct Launched {
    std::vector<bool> asked{};  ///< whether the device draws the token of each row of logits
    int32_t* told = nullptr;    ///< where the device writes the tokens, with the host
    int64_t mark = 0;           ///< of the device, behind it
    bool all_asked() const;
  };
  void run(const Batch& batch, Out logits);
  void write_draws(std::span<const Row> rows, Launched& step);
  void draw(Launched& step, In logits);
  void read_logits(In logits);

  const Model& model_;
  Device& device_;
  RunOptions options_;
  RunMemory memory_;
  std::unique_ptr<Device> host_;  ///< of the model's layers of the host
  std::optional<Arena> host_arena_;
  Cache cache_;
  Arena arena_;
  Tensor logits_;                ///< where the device writes them
  Tensor host_logits_;           ///< empty where that is the host's memory
  Tensor draws_, draws_tokens_;  ///< SampleRow and token of each row, with the device
  Storage told_;                 ///< tokens of two steps in turn, with the host
  int64_t turn_ = 0;
  std::deque<Launched> launched_;
  std::vector<int32_t> drawn_;
  std::unique_ptr<Recordings> recordings_;
};

}  // namespace sala
