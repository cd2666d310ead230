#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "base/error.h"
#include "cpu/isa.h"
#include "engine/session.h"
#include "session/checksum.h"

namespace sala {
namespace {

std::string hash(const std::string& text) {
  return fmt::format("{:016x}", checksum_of(std::span<const char>(text)));
}

std::string describe(const RopeConfig& r) {
  return fmt::format("{} {} {} {} {} {} {} {}\n", static_cast<int>(r.type), r.theta, r.factor,
                     r.low, r.high, r.original_context, fmt::join(r.factors, ","), r.magnitude);
}

/// Everything of the architecture that a result depends on. Not what only advises.
std::string describe(const ModelConfig& c) {
  std::string text = fmt::format("{} {} {} {} {} {}\n", c.family, c.vocab, c.hidden, c.intermediate,
                                 c.norm_eps, c.tied);
  for (const MixerKind mixer : c.mixers) text += fmt::format("{} ", name_of(mixer));
  const AttentionConfig& a = c.attention;
  text += fmt::format("\n{} {} {} {} {} {} {} {}\n", a.heads, a.kv_heads, a.head_dim, a.rope,
                      a.qk_norm, a.log_base, a.q_factor, a.gate);
  const LightningConfig& l = c.lightning;
  text += fmt::format("{} {} {} {} {} {} {} {}\n", l.heads, l.kv_heads, l.head_dim, l.scale, l.rope,
                      l.qk_norm, l.norm, l.gate);
  text += fmt::format("{} {} {}\n", c.embed_scale, c.residual_scale, c.logit_divisor);
  return text + describe(c.rope);
}

std::string_view name_of(SparsePolicy policy) {
  switch (policy) {
    case SparsePolicy::always:
      return "always";
    case SparsePolicy::per_query:
      return "per-query";
    case SparsePolicy::hf:
      return "hf";
    case SparsePolicy::dense:
      return "dense";
  }
  return "?";
}

std::string_view name_of(ComputeMode mode) {
  switch (mode) {
    case ComputeMode::automatic:
      return "auto";
    case ComputeMode::f32:
      return "f32";
    case ComputeMode::bf16:
      return "bf16";
    case ComputeMode::int8:
      return "int8";
  }
  return "?";
}

std::string sparse_fact(const ModelConfig& config, SparsePolicy policy) {
  if (!config.attention.sparse) return "no sparse layers";
  const SparseConfig& s = *config.attention.sparse;
  return fmt::format("{} (kernel {} stride {} block {} init {} window {} topk {} dense_len {})",
                     name_of(policy), s.kernel_size, s.kernel_stride, s.block_size, s.init_blocks,
                     s.window_size, s.topk, s.dense_len);
}

/// Names and shapes of the tensors, in the order of their names.
std::string tensor_table(const WeightSource& weights) {
  std::vector<std::string> lines;
  for (const StoredTensor& tensor : weights.tensors())
    lines.push_back(fmt::format("{} {}\n", tensor.name, fmt::join(tensor.shape, ",")));
  std::ranges::sort(lines);
  return std::accumulate(lines.begin(), lines.end(), std::string());
}

/// The types of the tensors, and a hash of the beginning of each one's bytes: weights that were
/// trained further have the same table.
std::string weights_fact(const WeightSource& weights) {
  constexpr size_t kSample = 4096;
  std::map<std::string, uint64_t> samples;
  std::map<std::string, int> types;
  for (const StoredTensor& tensor : weights.tensors()) {
    samples[tensor.name] = checksum(tensor.bytes.first(std::min(kSample, tensor.bytes.size())));
    ++types[std::string(name_of(tensor.type))];
  }
  std::string all, names;
  for (const auto& [name, sum] : samples) all += fmt::format("{} {:x}\n", name, sum);
  for (const auto& [type, count] : types) names += type + " ";
  return names + hash(all);
}

std::string vocabulary(const Tokenizer& tokenizer) {
  const auto id = [](std::optional<int> token) { return token.value_or(-1); };
  std::string text = fmt::format("{} {} {} {}\n", id(tokenizer.bos()), id(tokenizer.eos()),
                                 tokenizer.adds_bos(), tokenizer.size());
  for (int i = 0; i < tokenizer.size(); ++i) {
    text += tokenizer.is_special(i) ? '!' : ' ';
    text += tokenizer.piece(i);
    text += '\n';
  }
  return text;
}

std::string isa_fact() {
  constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
  std::string text = kNames[static_cast<int>(cpu::isa())];
  if (cpu::has_vnni()) text += " vnni";
  if (cpu::has_fast_bf16()) text += " bf16";
  return text;
}

SessionLayout layout_of(const ModelConfig& config, const std::vector<CacheSpec>& specs) {
  SessionLayout layout{.page = config.page()};
  for (const CacheSpec& spec : specs) {
    layout.cell = std::lcm(layout.cell, int64_t{spec.cell});
    layout.kv.push_back(entry_bytes(spec, Field::Growth::paged, Field::Role::kv));
    layout.index.push_back(entry_bytes(spec, Field::Growth::paged, Field::Role::index));
    layout.state += entry_bytes(spec, Field::Growth::state, Field::Role::state);
  }
  return layout;
}

}  // namespace

SessionFacts session_facts(const ModelFiles& files, const Model& model, const Device& device,
                           const RunOptions& options) {
  const ModelConfig& config = model.config();
  if (options.sparse == SparsePolicy::hf && config.attention.sparse)
    fail(
        "--sparse hf has no sessions: what a token attends to depends on the length of the whole "
        "prompt; use always, per-query or dense");
  SessionFacts facts;
  facts.layout = layout_of(config, cache_specs(config, options.kv));
  facts.identity = {{"config", hash(describe(config))},
                    {"tensors", hash(tensor_table(files.weights))},
                    {"tokenizer", files.tokenizer ? hash(vocabulary(*files.tokenizer)) : "none"},
                    {"sparse", sparse_fact(config, options.sparse)},
                    {"cell", fmt::format("{}", facts.layout.cell)},
                    {"kv", std::string(name_of(options.kv))}};
  facts.numerics = {{"weights", weights_fact(files.weights)},
                    {"compute", std::string(name_of(options.compute))},
                    {"backend", device.name()},
                    {"isa", device.name() == "cpu" ? isa_fact() : "any"},
                    {"release", SALA_VERSION}};
  return facts;
}

}  // namespace sala
