#include "checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "weights/decode.h"
#include "weights/safetensors.h"

namespace sala::halo {
namespace {

namespace fs = std::filesystem;

struct FileType {
  torch::ScalarType type;
  const char* name;
};
constexpr FileType kTypes[] = {{torch::kDouble, "F64"},    {torch::kFloat, "F32"},
                               {torch::kBFloat16, "BF16"}, {torch::kHalf, "F16"},
                               {torch::kInt, "I32"},       {torch::kLong, "I64"},
                               {torch::kByte, "U8"}};

/// Shapes and heads that every family writes alike.
Json common_json(const ModelConfig& c) {
  const AttentionConfig& a = c.attention;
  Json json = {{"vocab_size", c.vocab},
               {"hidden_size", c.hidden},
               {"intermediate_size", c.intermediate},
               {"num_hidden_layers", c.layers()},
               {"num_attention_heads", a.heads},
               {"num_key_value_heads", a.kv_heads},
               {"head_dim", a.head_dim},
               {"hidden_act", "silu"},
               {"rms_norm_eps", std::round(static_cast<double>(c.norm_eps) * 1e12) / 1e12},
               {"rope_theta", c.rope.theta},
               {"rope_scaling", nullptr},
               {"attention_bias", false},
               {"tie_word_embeddings", c.tied},
               {"max_position_embeddings", c.trained_context}};
  if (c.bos) json["bos_token_id"] = *c.bos;
  if (!c.eos.empty()) json["eos_token_id"] = c.eos;
  return json;
}

Json sparse_json(const SparseConfig& s) {
  return {{"kernel_size", s.kernel_size},
          {"kernel_stride", s.kernel_stride},
          {"init_blocks", s.init_blocks},
          {"block_size", s.block_size},
          {"window_size", s.window_size},
          {"topk", s.topk},
          {"use_nope", false},
          {"dense_len", s.dense_len}};
}

void add_hybrid(Json& json, const ModelConfig& c, bool hypenet) {
  const LightningConfig& l = c.lightning;
  Json types = Json::array();
  for (const MixerKind kind : c.mixers)
    types.push_back(kind == MixerKind::lightning ? "lightning-attn"
                    : hypenet                    ? "attn"
                                                 : "minicpm4");
  const double root = std::sqrt(l.head_dim);
  json.update({{"mixer_types", types},
               {"lightning_nh", l.heads},
               {"lightning_nkv", l.kv_heads},
               {"lightning_head_dim", l.head_dim},
               {"lightning_scale", std::abs(l.scale * root - 1.0) < 1e-6         ? "1/sqrt(d)"
                                   : std::abs(l.scale * l.head_dim - 1.0) < 1e-6 ? "1/d"
                                                                                 : "1"},
               {"lightning_use_rope", l.rope},
               {"attn_use_rope", c.attention.rope},
               {"attn_use_output_gate", c.attention.gate},
               {hypenet ? "lightning_use_qk_norm" : "qk_norm", l.qk_norm},
               {hypenet ? "lightning_use_output_norm" : "use_output_norm", l.norm},
               {hypenet ? "lightning_use_output_gate" : "use_output_gate", l.gate}});
  if (hypenet) {
    json["attn_logits_scaling"] = nullptr;
    if (c.attention.log_base > 0.0)
      json["attn_logits_scaling"] = fmt::format("hype {}", c.attention.log_base);
    return;
  }
  const double layers = c.layers();
  json.update(
      {{"scale_emb", static_cast<double>(c.embed_scale)},
       {"scale_depth", static_cast<double>(c.residual_scale) * std::sqrt(layers)},
       {"dim_model_base", static_cast<double>(c.hidden) / static_cast<double>(c.logit_divisor)}});
  if (c.attention.sparse) json["sparse_config"] = sparse_json(*c.attention.sparse);
}

Tensor stored_floats(const StoredTensor& stored) {
  const Tensor tensor = torch::empty(stored.shape, torch::kFloat);
  decode_floats(stored, {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())});
  return tensor;
}

}  // namespace

Json config_json(const ModelConfig& c, const std::string& type) {
  Json json = common_json(c);
  json["model_type"] = c.family;
  json["torch_dtype"] = type;
  if (c.family == "llama") {
    json["architectures"] = {"LlamaForCausalLM"};
    json["mlp_bias"] = false;
  } else if (c.family == "qwen3") {
    json["architectures"] = {"Qwen3ForCausalLM"};
    json["use_sliding_window"] = false;
  } else if (c.family == "minicpm_sala") {
    json["architectures"] = {"MiniCPMSALAForCausalLM"};
    add_hybrid(json, c, false);
  } else if (c.family == "hypenet") {
    json["architectures"] = {"HypeNetForCausalLM"};
    add_hybrid(json, c, true);
  } else {
    fail("a model of type \"{}\" cannot be written; llama, qwen3, minicpm_sala and hypenet can",
         c.family);
  }
  if (c.rope.type != RopeConfig::Type::plain)
    fail("a model with rope_scaling cannot be written: only plain RoPE is supported here");
  return json;
}

void write_safetensors(const fs::path& path, const Weights& tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto* known = std::ranges::find(kTypes, tensor.scalar_type(), &FileType::type);
    SALA_CHECK(known != std::end(kTypes), "{}: a type that files do not have", name);
    const int64_t bytes = tensor.numel() * tensor.element_size();
    header[name] = {{"dtype", known->name},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string head = header.dump();
  head.append((8 - head.size() % 8) % 8, ' ');
  const fs::path temporary = path.string() + ".part";
  {
    std::ofstream file(temporary, std::ios::binary);
    const uint64_t size = head.size();
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file << head;
    for (const auto& [name, tensor] : tensors) {
      const Tensor plain = tensor.detach().cpu().contiguous();
      file.write(static_cast<const char*>(plain.data_ptr()), plain.numel() * plain.element_size());
    }
    file.flush();
    if (!file) fail("{}: cannot be written; is the disk full?", temporary.string());
  }
  fs::rename(temporary, path);
}

Weights read_tensors(const fs::path& path) {
  Weights tensors;
  for (const StoredTensor& stored : read_safetensors(path)) {
    const auto* known = std::ranges::find(kTypes, stored.type_name, &FileType::name);
    if (known == std::end(kTypes))
      fail("{}: tensor {} has type {}; expected F64, F32, BF16, F16, I32, I64 or U8", path.string(),
           stored.name, stored.type_name);
    const Tensor tensor = torch::empty(stored.shape, known->type);
    std::memcpy(tensor.data_ptr(), stored.bytes.data(), stored.bytes.size());
    tensors[stored.name] = tensor;
  }
  return tensors;
}

Checkpoint read_checkpoint(const fs::path& dir, torch::Device device) {
  Checkpoint checkpoint{.config = read_config(dir / "config.json"), .weights = {}};
  for (const StoredTensor& stored : read_safetensors_directory(dir)) {
    if (stored.type != StoredType::f32 && stored.type != StoredType::f16 &&
        stored.type != StoredType::bf16)
      fail("{}: tensor {} has type {}; expected F32, F16 or BF16", dir.string(), stored.name,
           stored.type_name);
    checkpoint.weights[stored.name] = stored_floats(stored).to(device);
  }
  const auto shapes = tensor_shapes(checkpoint.config);
  for (const auto& [name, tensor] : checkpoint.weights)
    if (std::ranges::find(shapes, name, [](const auto& shape) { return shape.first; }) ==
        shapes.end())
      fail("{}: tensor {} is not one of the model that config.json describes", dir.string(), name);
  checkpoint.decoder();  // checks names and shapes
  return checkpoint;
}

void write_checkpoint(const fs::path& dir, const Checkpoint& checkpoint, torch::ScalarType type) {
  fs::create_directories(dir);
  Weights weights;
  for (const auto& [name, shape] : tensor_shapes(checkpoint.config))
    weights[name] = checkpoint.weights.at(name).detach().to(type);
  const ModelConfig& c = checkpoint.config;
  const Json config = config_json(c, type == torch::kFloat ? "float32" : "bfloat16");
  std::ofstream(dir / "config.json") << config.dump(2) << "\n";
  Json generation = Json::object();
  if (c.bos) generation["bos_token_id"] = *c.bos;
  if (!c.eos.empty()) generation["eos_token_id"] = c.eos;
  std::ofstream(dir / "generation_config.json") << generation.dump(2) << "\n";
  write_safetensors(dir / "model.safetensors", weights, {{"format", "pt"}});
}

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  if (fs::weakly_canonical(from) == fs::weakly_canonical(to)) return;
  fs::create_directories(to);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "tokenizer.model", "chat_template.jinja"})
    if (fs::exists(from / name))
      fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing);
}

}  // namespace sala::halo
