#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "model/rope.h"

namespace sala {

class Gguf;

/// InfLLM-V2 (Xiao et al. 2025, arXiv 2509.24663); all in tokens but init_blocks and topk, which
/// count blocks. The coarse level of compressed keys is four times the fine one in size and stride.
struct SparseConfig {
  int kernel_size = 32;
  int kernel_stride = 16;
  int block_size = 64;
  int init_blocks = 1;
  int window_size = 2048;
  int topk = 64;
  int dense_len = 8192;

  int local_blocks() const { return window_size / block_size; }
  /// Blocks that a query reads at most.
  int total_blocks() const { return topk + local_blocks(); }
};

/// Softmax attention layers.
struct AttentionConfig {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  bool rope = true;
  bool qk_norm = false;   ///< RMSNorm of every head of q and k, before RoPE
  double log_base = 0.0;  ///< a > 0: q of position p is multiplied by ln(p + a) / ln(a) (HypeNet)
  double q_factor = 1.0;  ///< q is multiplied by this
  bool gate = false;      ///< sigmoid output gate from the layer's input (`o_gate`)
  std::optional<SparseConfig> sparse;
};

/// Lightning attention layers.
struct LightningConfig {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  double scale = 1.0;
  bool rope = true;
  bool qk_norm = true;
  bool norm = true;  ///< RMSNorm over all heads of the output (`o_norm`)
  bool gate = true;  ///< sigmoid output gate from the layer's input (`z_proj`)
};

enum class MixerKind : uint8_t { attention, lightning };

std::string_view name_of(MixerKind kind);

/// A model's architecture, checked and complete: nothing later reads JSON or GGUF metadata.
struct ModelConfig {
  std::string family;  ///< model_type, e.g. "minicpm_sala", "llama"
  int64_t vocab = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  std::vector<MixerKind> mixers;  ///< one per layer
  AttentionConfig attention;      ///< heads = 0 where no layer has it
  LightningConfig lightning;      ///< heads = 0 where no layer has it
  float norm_eps = 1e-6f;
  RopeConfig rope;
  bool tied = false;         ///< the output head is the embedding table
  float embed_scale = 1.0f;  ///< muP scalings (Yang et al. 2022; Hu et al. 2024): embedding, both
                             ///< residual branches,
  float residual_scale = 1.0f;  ///< and the divisor of the final hidden state
  float logit_divisor = 1.0f;
  int64_t trained_context = 0;  ///< 0 when unknown; nothing depends on it but advice
  std::optional<int> bos;
  std::vector<int> eos;

  int layers() const { return static_cast<int>(mixers.size()); }
  /// Tokens in a page of the cache: InfLLM-V2's block where there is one.
  int page() const { return attention.sparse ? attention.sparse->block_size : 64; }
  /// Tokens of a text beyond which softmax attention meets positions that training has not shown
  /// it: trained_context where it turns them (RoPE), else 0, as in hybrids whose attention has no
  /// positions (HyPE), made for texts of any length.
  int64_t longest_known() const { return attention.rope ? trained_context : 0; }
};

/// Reads a Hugging Face config.json of a supported model_type. Throws Error naming the file and the
/// key.
ModelConfig read_config(const std::filesystem::path& path);
/// The same from a parsed config.json; `name` is used in messages.
ModelConfig parse_config(const Json& config, const std::string& name);
/// The same from a GGUF file's metadata (architectures `llama` and `qwen3`) and its RoPE factors.
ModelConfig gguf_config(const Gguf& gguf);

}  // namespace sala
