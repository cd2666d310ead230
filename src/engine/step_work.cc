#include "engine/step_work.h"

#include <algorithm>

#include "model/mixer.h"

namespace sala {
namespace {

constexpr int64_t kLightningCell = 32;  // tokens that one Lightning state is behind at most

bool chooses(const ModelConfig& config, SparsePolicy sparse) {
  return config.attention.sparse && sparse != SparsePolicy::dense;
}

/// Tokens that a query reads at most.
int64_t attended(const ModelConfig& config, SparsePolicy sparse) {
  return chooses(config, sparse) ? int64_t{config.attention.sparse->total_blocks()} * config.page()
                                 : int64_t{1} << 40;
}

/// Of one attention layer, over the first `n` tokens of a text.
double attention_operations(const ModelConfig& config, SparsePolicy sparse, double n) {
  const AttentionConfig& a = config.attention;
  const auto most = static_cast<double>(attended(config, sparse));
  const double row = 2.0 * a.heads * a.head_dim;
  const double near = std::min(n, most);
  double operations = 2.0 * row * (near * near / 2.0 + (n - near) * most);
  if (chooses(config, sparse)) operations += row * 1.25 / a.sparse->kernel_stride * n * n / 2.0;
  return operations;
}

/// Of one Lightning layer, over `n` tokens.
double lightning_operations(const LightningConfig& l, double n) {
  const double d = l.head_dim;
  return n * l.heads * (2.0 * kLightningCell * d + 4.0 * d * d);
}

/// Numbers in the projections of a mixer: q, k, v, what gates the output, and the output's.
double projections(double hidden, int heads, int kv_heads, int head_dim, bool gate) {
  return hidden * head_dim * ((gate ? 3.0 : 2.0) * heads + 2.0 * kv_heads);
}

}  // namespace

double cache_bytes(const ModelConfig& config, KvType kv, SparsePolicy sparse, int64_t depth,
                   int64_t tokens) {
  const auto specs = cache_specs(config, kv);
  const int64_t queries = std::max<int64_t>(tokens, 1);
  const int64_t all = depth + tokens, near = std::min(all, queries * attended(config, sparse));
  const MemoryUse memory = memory_of(specs, config.page(), all);
  const int64_t index = chooses(config, sparse) ? memory.index : 0;
  return static_cast<double>(memory_of(specs, config.page(), near).kv + index + memory.state);
}

double matmul_operations(const ModelConfig& config, int64_t tokens, int64_t logits) {
  const auto hidden = static_cast<double>(config.hidden);
  double numbers = 0;
  for (const MixerKind kind : config.mixers) {
    const AttentionConfig& a = config.attention;
    const LightningConfig& l = config.lightning;
    numbers += kind == MixerKind::attention
                   ? projections(hidden, a.heads, a.kv_heads, a.head_dim, a.gate)
                   : projections(hidden, l.heads, l.kv_heads, l.head_dim, l.gate);
    numbers += 3.0 * hidden * static_cast<double>(config.intermediate);
  }
  return 2.0 * (numbers * static_cast<double>(tokens) +
                hidden * static_cast<double>(config.vocab) * static_cast<double>(logits));
}

double mixing_operations(const ModelConfig& config, SparsePolicy sparse, int64_t depth,
                         int64_t tokens) {
  const auto before = static_cast<double>(depth), after = static_cast<double>(depth + tokens);
  double operations = 0.0;
  for (const MixerKind kind : config.mixers)
    operations += kind == MixerKind::attention
                      ? attention_operations(config, sparse, after) -
                            attention_operations(config, sparse, before)
                      : lightning_operations(config.lightning, after - before);
  return operations;
}

}  // namespace sala
