#pragma once

#include "cache/cache.h"
#include "model/step.h"

namespace sala {

/// Keys and values that do not all lie in memory: what must be there before an op touches them.

/// Brings the pages that the step's tokens are written to, and those of the `before` tokens in
/// front of each sequence's first, from which compressed keys are made.
void use_written_pages(const Sequences& sequences, int page, int64_t before,
                       const LayerMemory& memory);

/// attention() of all tokens, in as many runs of tokens as it takes for the pages that a run reads
/// to be in memory together. A token's result depends on that token alone, so the runs change
/// nothing. Takes a few tensors of one entry a sequence from the arena.
void attention_over_blocks(Step& step, In q, const KvPages& pages, In lists, In counts, float scale,
                           In gate, Out o, const LayerMemory& memory);

}  // namespace sala
