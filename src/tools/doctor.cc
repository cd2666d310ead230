// sala doctor: what this machine can do, what of a model fits, how fast it should be.
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "engine/estimate.h"
#include "engine/machine.h"
#include "tools/command.h"

namespace sala {
namespace {

constexpr int64_t kSequences[] = {1, 4, 16};
constexpr int64_t kLengths[] = {1024, 8192, 32768, 131072, 1 << 20};
constexpr int64_t kMostContext = int64_t{1} << 24;
constexpr int64_t kUnknownContext = 8192;  // of a model that does not say what it was made for

struct DoctorCommand {
  std::string model, backend = "cpu";
  int threads = 0;
  bool json = false;

  void run() const;
};

Json rates_json(const MatmulRates& rates) {
  return {{"f32", rates.f32}, {"bf16", rates.bf16}, {"int8", rates.int8}};
}

Json machine_json(const Machine& m) {
  return {{"cores", m.cores},
          {"threads", m.threads},
          {"isa", m.isa},
          {"vnni", m.vnni},
          {"bf16", m.bf16},
          {"memory", m.memory},
          {"available", m.available},
          {"read_bytes_per_second", m.limits.read},
          {"operations_per_second",
           {{"peak", {{"f32", m.limits.f32}, {"bf16", m.limits.bf16}, {"int8", m.limits.int8}}},
            {"many_rows", rates_json(m.many)},
            {"one_row", rates_json(m.one)}}},
          {"gpus", m.gpus}};
}

/// The type of keys and values that holds the context for which the model was made, the most exact
/// one first from bf16 on; where none does, the one that holds most.
Json advice(const Estimate& estimate, const Machine& machine, const std::string& backend,
            int64_t trained, bool chats) {
  const int64_t wanted = trained > 0 ? trained : kUnknownContext;
  std::optional<std::pair<std::string, int64_t>> best;
  for (const KvType kv : kKvTypes) {
    if (kv == KvType::f32) continue;  // it is for comparisons
    const int64_t fits = estimate.context(kv, 1, kMostContext);
    if (!best || fits > best->second) best = {std::string(name_of(kv)), fits};
    if (fits >= wanted) break;
  }
  if (best->second == 0) return "";
  return fmt::format(
      "{} --kv {} {}", chats ? fmt::format("--ctx {}", std::min(wanted, best->second)) : "--raw",
      best->first,
      backend == "cpu" ? fmt::format("--threads {}", machine.threads) : "--backend " + backend);
}

Json model_json(const ModelFiles& files, const Machine& machine, const std::string& backend) {
  const Estimate estimate(files, machine);
  Json fits = Json::array(), prompts = Json::array(), tokens = Json::array();
  for (const KvType kv : kKvTypes)
    for (const int64_t sequences : kSequences)
      fits.push_back({{"kv", name_of(kv)},
                      {"sequences", sequences},
                      {"context", estimate.context(kv, sequences, kMostContext)}});
  const int64_t trained = files.config.trained_context;
  const bool chats = files.chat_template.has_value();
  for (const int64_t length : kLengths) {
    if (trained > 0 && length > trained) break;
    const double seconds = estimate.prompt_seconds(length);
    prompts.push_back({{"tokens", length},
                       {"seconds", seconds},
                       {"tokens_per_second", static_cast<double>(length) / seconds}});
    tokens.push_back({{"context", length},
                      {"tokens_per_second", 1.0 / estimate.token_seconds(KvType::bf16, length)}});
  }
  return {{"path", files.path.string()},
          {"family", files.config.family},
          {"weights", estimate.weight_bytes()},
          {"workspace", estimate.workspace()},
          {"trained_context", trained},
          {"fits", fits},
          {"prompts", prompts},
          {"tokens", tokens},
          {"command", chats ? "chat" : "run"},
          {"flags", advice(estimate, machine, backend, trained, chats)}};
}

void print_machine(const Json& m) {
  constexpr double kGiB = 1 << 30;
  fmt::print("{} cores, {}{}{}; {:.1f} GiB of memory, {:.1f} available\n", m["cores"].dump(),
             m["isa"].get<std::string>(), m["vnni"] ? ", byte dot products" : "",
             m["bf16"] ? ", bf16 products" : "", m["memory"].get<double>() / kGiB,
             m["available"].get<double>() / kGiB);
  fmt::print("measured on {} threads: {:.1f} GB/s read from memory\n", m["threads"].dump(),
             m["read_bytes_per_second"].get<double>() / 1e9);
  for (const auto& [key, name] : {std::pair("peak", "arithmetic in registers"),
                                  {"many_rows", "matrix products of prompts"},
                                  {"one_row", "matrix products of single tokens"}}) {
    const Json& rates = m["operations_per_second"][key];
    fmt::print("{:32} f32 {:.0f}, bf16 {:.0f}, int8 {:.0f} GFLOP/s\n", name,
               rates["f32"].get<double>() / 1e9, rates["bf16"].get<double>() / 1e9,
               rates["int8"].get<double>() / 1e9);
  }
  for (const Json& gpu : m["gpus"]) fmt::print("GPU: {}\n", gpu.get<std::string>());
}

void print_model(const Json& m) {
  constexpr double kGiB = 1 << 30;
  fmt::print("\n{}: {}, weights {:.2f} GiB, workspace about {:.2f} GiB\n",
             m["path"].get<std::string>(), m["family"].get<std::string>(),
             m["weights"].get<double>() / kGiB, m["workspace"].get<double>() / kGiB);
  fmt::print("tokens of context that fit, each of   1, 4, 16 sequences\n");
  const size_t columns = std::size(kSequences);
  for (size_t i = 0; i < m["fits"].size(); i += columns) {
    fmt::print("  --kv {:6}", m["fits"][i]["kv"].get<std::string>());
    for (size_t j = 0; j < columns; ++j)
      fmt::print(" {:>10}", m["fits"][i + j]["context"].get<int64_t>());
    fmt::print("\n");
  }
  fmt::print("expected at best, keys and values in bf16\n");
  for (size_t i = 0; i < m["prompts"].size(); ++i)
    fmt::print("  {:>8} tokens: first token after {:>8.1f} s, then {:.1f} tokens/s\n",
               m["prompts"][i]["tokens"].get<int64_t>(), m["prompts"][i]["seconds"].get<double>(),
               m["tokens"][i]["tokens_per_second"].get<double>());
  const std::string flags = m["flags"];
  if (flags.empty())
    fmt::print("it does not fit: use a file with smaller weights, or free memory\n");
  else
    fmt::print("sala {} {} {}{}\n", m["command"].get<std::string>(), m["path"].get<std::string>(),
               flags, m["command"] == "run" ? " -p TEXT" : "");
}

void DoctorCommand::run() const {
  std::optional<ModelFiles> files;  // a bad path is told before the probes
  if (!model.empty()) files = open_model(model, OpenText::yes);
  const Machine machine =
      backend == "cpu" ? measure_machine(threads) : measure_gpu(*open_device({.backend = backend}));
  Json out = {{"machine", machine_json(machine)}};
  if (files) out["model"] = model_json(*files, machine, backend);
  if (json) {
    fmt::print("{}\n", out.dump());
    return;
  }
  print_machine(out["machine"]);
  if (files) print_model(out["model"]);
}

}  // namespace

void add_doctor(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "doctor", "Show what this machine can do, what of a model fits, and how fast it should be");
  auto doctor = std::make_shared<DoctorCommand>();
  command.add_option("model", doctor->model, "Hugging Face model directory or .gguf file");
  command.add_option("--backend", doctor->backend, "cpu; cuda, or cuda:N for GPU number N")
      ->capture_default_str();
  command.add_option("--threads", doctor->threads, "threads; 0 takes every core")
      ->check(number_from(0, 1024))
      ->capture_default_str();
  command.add_flag("--json", doctor->json, "print one JSON object");
  read_environment(command);
  command.callback([doctor] { doctor->run(); });
}

}  // namespace sala
