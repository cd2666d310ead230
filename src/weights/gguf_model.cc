#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"
#include "weights/describe.h"
#include "weights/gguf.h"

namespace sala {
namespace {

struct Name {
  std::string_view gguf, hugging_face;
};

constexpr GgufArchitecture kArchitectures[] = {
    {.name = "llama", .interleaved = true, .qk_norm = false},
    {.name = "qwen3", .interleaved = false, .qk_norm = true},
};

constexpr Name kModelNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

constexpr Name kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};

/// "blk.7.attn_q.weight" as "7" and "attn_q.weight"; two empty parts for other names.
std::pair<std::string_view, std::string_view> split_layer(std::string_view name) {
  if (!name.starts_with("blk.")) return {};
  name.remove_prefix(4);
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  const bool plain = digits > 0 && (digits == 1 || name[0] != '0');
  if (!plain || digits == name.size() || name[digits] != '.') return {};
  return {name.substr(0, digits), name.substr(digits + 1)};
}

std::string hugging_face_name(const std::string& name) {
  for (const auto& [gguf, other] : kModelNames)
    if (name == gguf) return std::string(other);
  const auto [layer, rest] = split_layer(name);
  for (const auto& [gguf, other] : kLayerNames)
    if (rest == gguf) return fmt::format("model.layers.{}.{}", layer, other);
  return name;
}

}  // namespace

const GgufArchitecture& Gguf::architecture() const {
  const std::string& name = text("general.architecture");
  const auto* known = std::ranges::find(kArchitectures, name, &GgufArchitecture::name);
  if (known != std::end(kArchitectures)) return *known;
  std::string names;
  for (const auto& each : kArchitectures)
    names += (names.empty() ? "'" : ", '") + std::string(each.name) + "'";
  fail(
      "{}: 'general.architecture' is {}; of GGUF files {} are supported, other models as Hugging "
      "Face directories",
      path_.string(), printable(name), names);
}

WeightSource Gguf::model_weights() const {
  const auto file = path_.string();
  const GgufArchitecture& kind = architecture();
  if (const auto parts = integer("split.count", 1); parts > 1)
    fail("{}: is one of {} parts of a split file; join them with llama-gguf-split --merge", file,
         parts);
  const auto positive = [&](std::string_view name, std::optional<int64_t> otherwise) {
    const auto key = fmt::format("{}.{}", kind.name, name);
    const int64_t value = otherwise ? integer(key, *otherwise) : integer(key);
    if (value <= 0 || value > std::numeric_limits<int32_t>::max())
      fail("{}: metadata key {} is {}, expected a positive 32-bit number; the file is damaged",
           file, printable(key), value);
    return value;
  };
  const auto heads = positive("attention.head_count", {});
  const auto kv_heads = positive("attention.head_count_kv", heads);
  const auto hidden = positive("embedding_length", {});
  const auto head_size = positive("attention.key_length", hidden / heads);
  if (head_size % 2 != 0)
    fail(
        "{}: heads of {} rows cannot be turned by RoPE, expected an even number; the file is "
        "damaged",
        file, head_size);

  auto tensors = tensors_;
  std::erase_if(tensors, [](const StoredTensor& t) { return t.name == kGgufRopeFactors; });
  for (auto& tensor : tensors) {
    const auto rest = split_layer(tensor.name).second;
    const bool q = rest == "attn_q.weight", k = rest == "attn_k.weight";
    if (q || k) {
      const int64_t rows = (q ? heads : kv_heads) * head_size;
      if (tensor.shape.size() != 2 || tensor.shape[0] != rows)
        fail(
            "{}: tensor {} has shape {}, expected {} rows ({} heads of {}); the file contradicts "
            "its metadata",
            file, printable(tensor.name), shape_text(tensor.shape), rows, q ? heads : kv_heads,
            head_size);
      if (kind.interleaved) tensor.interleaved_head = head_size;
    }
    tensor.name = hugging_face_name(tensor.name);
  }
  return WeightSource(std::move(tensors), file);
}

}  // namespace sala
