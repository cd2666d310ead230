#include "tools/command.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "tools/progress.h"

namespace sala {
namespace {

template <class T>
T choose(const char* flag, const std::string& value,
         std::initializer_list<std::pair<const char*, T>> known) {
  std::string names;
  for (const auto& [name, meaning] : known) {
    if (value == name) return meaning;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  throw UsageError(fmt::format("{} is \"{}\"; expected one of {}", flag, value, names));
}

}  // namespace

void read_environment(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    std::string name = option->get_name(false, true);  // every name, e.g. "-n,--predict"
    name = name.substr(0, name.find(','));
    if (!name.starts_with('-') || name == "--help") continue;
    name.erase(0, name.find_first_not_of('-'));
    std::ranges::transform(name, name.begin(), [](unsigned char c) {
      return c == '-' ? '_' : static_cast<char>(std::toupper(c));
    });
    option->envname("SALA_" + name);
  }
}

KvType kv_type(const std::string& name) {
  if (name == "auto") return KvType::bf16;
  std::string names = "auto";
  for (const KvType type : kKvTypes) {
    if (name == name_of(type)) return type;
    names += ", " + std::string(name_of(type));
  }
  throw UsageError(fmt::format("--kv is \"{}\"; expected one of {}", name, names));
}

void ModelOptions::add_to(CLI::App& command) {
  command.add_option("model", model, "Hugging Face model directory or .gguf file")->required();
  command
      .add_option("--backend", backend,
                  "cpu; cuda, or cuda:N for GPU number N; reference: plain loops in double")
      ->capture_default_str();
  command
      .add_option("--gpu-layers,--n-gpu-layers", gpu_layers,
                  "layers that a GPU has, the last ones; the CPU has the others [default: all]")
      ->check(CLI::Range(0, 1 << 16));
  command.add_option("--threads", threads, "threads; 0 takes every core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_option("--compute", compute, "type of activations in matmuls: auto, f32, bf16, int8")
      ->capture_default_str();
  command
      .add_option("--kv", kv,
                  "type of keys and values in the cache: auto (bf16), f32, bf16, int8, int4")
      ->capture_default_str();
  command
      .add_option("--sparse", sparse, "which tokens attend sparsely: always, per-query, hf, dense")
      ->capture_default_str();
  command.add_option("--chunk", chunk, "prompt tokens in one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  const auto size = [&](const char* name, int64_t& bytes, const char* what) {
    command.add_option(name, bytes, what)->transform(CLI::AsSizeValue(false))->type_name("SIZE");
  };
  size("--kv-memory", kv_memory,
       "keys and values in memory at most, e.g. 2G; the rest lies in a file [default: all]");
  size("--cache-ram", cache_ram, "memory for snapshots of states");
  size("--cache-disk", cache_disk,
       "files for the keys, values and snapshots that memory lacks [default: as keys and "
       "values need]");
  command.add_option("--cache-dir", cache_dir,
                     "where these files go [default: the system's temporary directory]");
}

RunOptions ModelOptions::run_options() const {
  RunOptions run;
  if (backend != "cpu" && backend != "reference" && backend != "cuda" &&
      !backend.starts_with("cuda:"))
    throw UsageError(fmt::format(
        "--backend is \"{}\"; expected cpu, reference, cuda or cuda: and a GPU's number", backend));
  run.backend = backend;
  run.threads = threads;
  run.gpu_layers = gpu_layers;
  run.chunk = chunk;
  run.kv_memory = kv_memory;
  run.cache_ram = cache_ram;
  run.cache_disk = cache_disk;
  run.cache_dir = cache_dir;
  run.compute = choose<ComputeMode>("--compute", compute,
                                    {{"auto", ComputeMode::automatic},
                                     {"f32", ComputeMode::f32},
                                     {"bf16", ComputeMode::bf16},
                                     {"int8", ComputeMode::int8}});
  run.kv = kv_type(kv);
  run.sparse = choose<SparsePolicy>("--sparse", sparse,
                                    {{"always", SparsePolicy::always},
                                     {"per-query", SparsePolicy::per_query},
                                     {"hf", SparsePolicy::hf},
                                     {"dense", SparsePolicy::dense}});
  return run;
}

LoadedModel load_model(const ModelOptions& options, OpenText text) {
  const auto start = std::chrono::steady_clock::now();
  const RunOptions run = options.run_options();  // a bad flag is told before minutes of loading
  LoadedModel loaded{.files = open_model(options.model, text)};
  loaded.device = open_device(run);
  if (!loaded.files.weights.remark.empty())
    fmt::print(stderr, "sala: {}\n", loaded.files.weights.remark);

  ThreadPool pool(run.threads > 0 ? run.threads : available_cores());
  Progress bar("loading", "GB", 1e9);
  loaded.files.weights.memory = loaded.device.get();
  loaded.files.weights.progress = [&](int64_t done, int64_t total) { bar.update(done, total); };
  loaded.files.weights.parallel = [&](int64_t count, const std::function<void(int64_t)>& work) {
    pool.run(count, [&](int64_t i, int) { work(i); });
  };
  loaded.model = std::make_unique<Model>(loaded.files.config, loaded.files.weights,
                                         host_layers(loaded.files.config, run));
  loaded.files.weights.progress = {};
  loaded.files.weights.parallel = {};
  loaded.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return loaded;
}

std::function<void(int64_t)> prompt_progress(int64_t tokens) {
  return [bar = std::make_shared<Progress>("reading", "tokens"), tokens](int64_t done) {
    bar->update(done, tokens);
    if (done == tokens) bar->clear();
  };
}

}  // namespace sala
