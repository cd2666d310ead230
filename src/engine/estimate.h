#pragma once

#include <cstdint>

#include "engine/machine.h"
#include "engine/open.h"
#include "engine/runner.h"

namespace sala {

/// What a model needs and how fast it should be, from its configuration and its files' headers
/// alone: closed forms over what was measured of the machine. Times are what the machine allows; a
/// run reaches most of it.
class Estimate {
 public:
  Estimate(const ModelFiles& files, const Machine& machine);

  int64_t weight_bytes() const { return weight_bytes_; }  ///< packed
  int64_t workspace() const { return workspace_; }        ///< of a step of 512 tokens, about
  /// Memory of one sequence of `tokens` tokens.
  MemoryUse memory(KvType kv, int64_t tokens) const;
  /// The most tokens, in whole pages, that each of `sequences` can have in the memory that is
  /// available; at most `most`.
  int64_t context(KvType kv, int64_t sequences, int64_t most) const;

  /// Seconds from a prompt of `tokens` tokens to the first token of the answer.
  double prompt_seconds(int64_t tokens) const;
  /// Seconds for one more token behind `tokens` tokens.
  double token_seconds(KvType kv, int64_t tokens) const;

 private:
  ModelConfig config_;
  int64_t available_ = 0, weight_bytes_ = 0, workspace_ = 0;
  double row_seconds_ = 0.0;   ///< of the layers' matrix products for a token of a prompt,
  double step_seconds_ = 0.0;  ///< for a token alone;
  double head_seconds_ = 0.0;  ///< of the head's for one token
  double read_rate_ = 0.0, f32_rate_ = 0.0;
};

}  // namespace sala
