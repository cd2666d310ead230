// sala inspect: what a model is and what it needs, without loading its weights.
#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/json.h"
#include "tools/command.h"
#include "weights/packed.h"

namespace sala {
namespace {

struct InspectCommand {
  std::string model, kv = "auto";
  int64_t context = 0;
  bool json = false;

  void run() const;
};

Json attention_json(const AttentionConfig& a) {
  Json out = {{"heads", a.heads},
              {"kv_heads", a.kv_heads},
              {"head_dim", a.head_dim},
              {"rope", a.rope},
              {"gate", a.gate}};
  if (a.sparse) {
    const SparseConfig& s = *a.sparse;
    out["sparse"] = {{"kernel_size", s.kernel_size}, {"kernel_stride", s.kernel_stride},
                     {"block_size", s.block_size},   {"init_blocks", s.init_blocks},
                     {"window_size", s.window_size}, {"topk", s.topk},
                     {"dense_len", s.dense_len},     {"blocks_read", s.total_blocks()}};
  }
  return out;
}

Json lightning_json(const LightningConfig& l) {
  return {{"heads", l.heads}, {"kv_heads", l.kv_heads}, {"head_dim", l.head_dim},
          {"rope", l.rope},   {"qk_norm", l.qk_norm},   {"output_norm", l.norm},
          {"gate", l.gate},   {"scale", l.scale}};
}

Json memory_json(const MemoryUse& use) {
  return {{"kv", use.kv}, {"index", use.index}, {"state", use.state}, {"total", use.total()}};
}

void print_table(const Json& out) {
  constexpr double kMiB = 1024.0 * 1024.0;
  fmt::print("{}: {}\n", out["path"].get<std::string>(), out["family"].get<std::string>());
  fmt::print("  parameters   {:>16}\n", out["parameters"].get<int64_t>());
  fmt::print("  file bytes   {:>16}  ({})\n", out["bytes"].get<int64_t>(), out["types"].dump());
  fmt::print("  hidden {}, intermediate {}, vocabulary {}, {} layers{}\n", out["hidden"].dump(),
             out["intermediate"].dump(), out["vocab"].dump(), out["layers"].size(),
             out["tied"].get<bool>() ? ", tied head" : "");
  for (const char* kind : {"attention", "lightning"})
    if (out.contains(kind)) fmt::print("  {}: {}\n", kind, out[kind].dump());
  std::string layers;
  for (const Json& layer : out["layers"]) layers += layer["mixer"] == "lightning" ? 'L' : 'A';
  fmt::print("  layers (A attention, L lightning): {}\n", layers);
  fmt::print(
      "  memory for {} tokens ({} keys and values): kv {:.1f} MiB, index {:.1f} MiB, state {:.1f} "
      "MiB, total "
      "{:.1f} MiB\n",
      out["context"].dump(), out["kv_type"].get<std::string>(),
      out["memory"]["kv"].get<double>() / kMiB, out["memory"]["index"].get<double>() / kMiB,
      out["memory"]["state"].get<double>() / kMiB, out["memory"]["total"].get<double>() / kMiB);
}

void InspectCommand::run() const {
  const ModelFiles files = open_model(model, OpenText::no);
  const ModelConfig& c = files.config;
  const KvType type = kv_type(kv);
  const int64_t tokens = context > 0 ? context : c.trained_context > 0 ? c.trained_context : 4096;

  int64_t parameters = 0, bytes = 0;
  std::map<std::string, int64_t> types;
  for (const StoredTensor& tensor : files.weights.tensors()) {
    const auto packed = parse_packed(tensor);
    parameters += packed ? packed->elements() : tensor.elements();
    bytes += static_cast<int64_t>(tensor.bytes.size());
    types[std::string(packed ? name_of(packed->type) : name_of(tensor.type))] +=
        static_cast<int64_t>(tensor.bytes.size());
  }
  const auto specs = cache_specs(c, type);
  Json layers = Json::array();
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    int64_t layer_parameters = 0;
    for (const StoredTensor& tensor : files.weights.tensors())
      if (tensor.name.starts_with(prefix)) {
        const auto packed = parse_packed(tensor);
        layer_parameters += packed ? packed->elements() : tensor.elements();
      }
    layers.push_back(
        {{"mixer", name_of(c.mixers[i])},
         {"sparse", c.mixers[i] == MixerKind::attention && c.attention.sparse.has_value()},
         {"parameters", layer_parameters},
         {"memory", memory_json(memory_of({specs[i]}, c.page(), tokens))}});
  }
  Json out = {{"path", model},
              {"family", c.family},
              {"parameters", parameters},
              {"bytes", bytes},
              {"types", types},
              {"vocab", c.vocab},
              {"hidden", c.hidden},
              {"intermediate", c.intermediate},
              {"tied", c.tied},
              {"context", tokens},
              {"trained_context", c.trained_context},
              {"kv_type", name_of(type)},
              {"page", c.page()},
              {"memory", memory_json(memory_of(specs, c.page(), tokens))},
              {"layers", layers}};
  if (std::ranges::count(c.mixers, MixerKind::attention) > 0)
    out["attention"] = attention_json(c.attention);
  if (std::ranges::count(c.mixers, MixerKind::lightning) > 0)
    out["lightning"] = lightning_json(c.lightning);
  if (json) {
    fmt::print("{}\n", out.dump());
  } else {
    print_table(out);
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("inspect", "Show a model's architecture, size and memory");
  auto inspect = std::make_shared<InspectCommand>();
  command.add_option("model", inspect->model, "Hugging Face model directory or .gguf file")
      ->required();
  command
      .add_option("--ctx", inspect->context,
                  "tokens of context [default: what the model was trained for]")
      ->check(number_from(int64_t{1}, int64_t{1} << 40));
  command
      .add_option("--kv", inspect->kv,
                  "type of keys and values in the cache: auto (bf16), f32, bf16, int8, int4")
      ->capture_default_str();
  command.add_flag("--json", inspect->json, "print one JSON object");
  read_environment(command);
  command.callback([inspect] { inspect->run(); });
}

}  // namespace sala
