#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/cache.h"
#include "model/config.h"
#include "ops/device.h"
#include "ops/kv_type.h"
#include "ops/sequences.h"

namespace sala {

/// Which tokens attend sparsely where a layer is InfLLM-V2. All but `hf` are functions of the
/// position alone, so that a prefix means the same in every run.
///   always     every token; below position (topk + window / block) * block it equals dense
///   attention per_query  tokens at position dense_len - 1 and after hf         as one-shot
///   Transformers runs: prompt tokens by the length of the whole prompt, each generated token by
///   the
///              length so far, sparse from dense_len on
///   dense      none
enum class SparsePolicy : uint8_t { always, per_query, hf, dense };

/// Whether the token at `position` attends sparsely; `prompt` is the length of the whole prompt
/// (used by `hf`).
bool attends_sparsely(SparsePolicy policy, int dense_len, int64_t position, int64_t prompt);

/// The compute type of every matmul: `automatic` takes f32 for f32 and f16 weights, bf16 for bf16
/// weights where the device has bf16 arithmetic (else f32), int8 for quantised weights.
enum class ComputeMode : uint8_t { automatic, f32, bf16, int8 };

/// The tokens of one step: those of several sequences laid end to end; prefill and decode are the
/// same thing.
struct Batch {
  std::vector<int32_t> tokens, positions;       ///< [T]
  std::vector<uint8_t> sparse;                  ///< [T]
  std::vector<int32_t> starts = {0};            ///< [B + 1]
  std::vector<int32_t> slots;                   ///< [B]
  std::vector<int32_t> kept;                    ///< [B] tokens that the pages hold already
  std::vector<std::span<const int32_t>> pages;  ///< [B] owned by the holds
  std::vector<int32_t> wanted;  ///< tokens of the step whose logits are wanted, ascending

  /// Adds the next tokens of a sequence whose hold has grown by their number. `sparse_from` and
  /// `sparse_to`: tokens at these positions attend sparsely. Logits are wanted for the last
  /// `logits` tokens.
  void add(const Hold& hold, std::span<const int> next,
           const std::function<bool(int64_t position)>& is_sparse, int64_t logits);
  int64_t count() const { return static_cast<int64_t>(tokens.size()); }
};

/// Memory of one step's intermediate tensors: handed out in order, all given back at once.
class Arena {
 public:
  Arena(Memory& memory, int64_t bytes) : storage_(memory.allocate(bytes)), capacity_(bytes) {}

  Out take(DType dtype, std::initializer_list<int64_t> dims);
  int64_t used() const { return used_; }
  /// Gives back everything taken since used() was `mark`.
  void rewind(int64_t mark) { used_ = mark; }
  /// Bytes that take() needs for this tensor.
  static int64_t bytes(DType dtype, std::initializer_list<int64_t> dims);

 private:
  Storage storage_;
  int64_t capacity_;
  int64_t used_ = 0;
};

/// What was chosen in one layer of one step, in the host's memory: lists [T, kv_heads, top], counts
/// [T, kv_heads] (-1: dense).
using OnBlocks = std::function<void(int layer, In lists, In counts)>;

/// All that a forward may touch.
struct Step {
  Device& device;
  Arena& arena;
  ComputeMode compute = ComputeMode::automatic;
  KvType kv = KvType::bf16;  ///< of keys and values in the cache
  OnBlocks on_blocks;
  Recordings* recordings = nullptr;  ///< of steps with this device, arena, cache and model
  In drawn{};  ///< i32, what ids of drawn_id() stand for (embed); with recordings always the same

  // Set by Model::forward for the mixers.
  Sequences sequences{};
  In sparse{};          ///< [T] u8
  In q_cos{}, q_sin{};  ///< [T, head_dim / 2] of attention layers, where q is turned or scaled
  In k_cos{}, k_sin{};  ///< the same for k
  In lightning_cos{}, lightning_sin{};

  /// The op's compute type for this weight under the step's mode.
  Compute compute_for(const Weight& weight) const;
  /// The type in which attention computes: f32 beside f32 keys or where the mode says so, else
  /// bf16; `automatic` takes it where the device has bf16 arithmetic.
  Compute attention_compute() const;
};

}  // namespace sala
