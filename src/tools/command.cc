#include "tools/command.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/json.h"
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

void name_variables(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    std::string name = option->get_name(false, true);  // every name, e.g. "-n,--predict"
    name = name.substr(0, name.find(','));
    if (!name.starts_with('-') || option == command.get_help_ptr()) continue;
    name.erase(0, name.find_first_not_of('-'));
    std::ranges::transform(name, name.begin(), [](unsigned char c) {
      return c == '-' ? '_' : static_cast<char>(std::toupper(c));
    });
    option->envname("SALA_" + name);
  }
}

}  // namespace

void read_environment(CLI::App& command) {
  // Only when this command is chosen: the parser looks up what every command has.
  command.preparse_callback([&command](size_t) { name_variables(command); });
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
  command.add_option("model,--model", model, "Hugging Face model directory or .gguf file")
      ->required();
  command
      .add_option("--backend", backend,
                  "cpu; cuda, or cuda:N for GPU number N; reference: plain loops in double")
      ->capture_default_str();
  command
      .add_option("--gpu-layers,--n-gpu-layers", gpu_layers,
                  "layers that a GPU has, the last ones; the CPU has the others [default: all]")
      ->check(number_from(0, 1 << 16));
  command.add_option("--threads", threads, "threads; 0 takes every core")
      ->check(number_from(0, 1024))
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
      ->check(number_from(1, 1 << 20))
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

void ModelOptions::add_draft_to(CLI::App& command) {
  draft = 15;
  command
      .add_option("--draft-max,--draft,--draft-n", draft,
                  "tokens of a reply that are drafted at a time, at most, from what its text has "
                  "said before: the same reply in fewer steps; 0: none")
      ->check(number_from(0, 63))
      ->capture_default_str();
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
  run.draft = draft;
  run.logits = 1 + draft;
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
  if (!loaded.files.weights.remark.empty()) tell("sala: {}\n", loaded.files.weights.remark);

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

void tell_if_beyond(const ModelConfig& config, int64_t tokens) {
  if (const int64_t known = config.longest_known(); known > 0 && tokens > known)
    tell("sala: the text has {} tokens, and the model was made for {}: answers may be worse\n",
         tokens, known);
}

std::string read_input(const std::string& path) {
  constexpr size_t kMost = size_t{1} << 30;
  std::error_code none;
  const auto there = std::filesystem::status(path, none);
  const bool streams = path == "-" || std::filesystem::is_fifo(there) ||
                       std::filesystem::is_character_file(there) ||
                       std::filesystem::is_socket(there);
  if (!streams) return read_text(path);
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  std::istream& in = path == "-" ? std::cin : file;
  std::string text;
  for (std::array<char, 1 << 16> part; in && text.size() <= kMost;) {
    in.read(part.data(), part.size());
    text.append(part.data(), static_cast<size_t>(in.gcount()));
  }
  if (text.size() > kMost)
    fail("{}: gives more than {} bytes, the most that is read of a pipe", path, kMost);
  if (!in.eof()) fail("{}: cannot be read", path);
  return text;
}

void rename_short_options(std::vector<std::string>& arguments) {
  constexpr std::pair<std::string_view, const char*> kShort[] = {
      {"-t", "--threads"}, {"-ngl", "--n-gpu-layers"}, {"-m", "--model"}, {"-c", "--ctx"}};
  for (std::string& argument : arguments)
    for (const auto& [name, meant] : kShort)
      if (argument == name) argument = meant;
}

std::function<void(int64_t)> prompt_progress(int64_t tokens) {
  return [bar = std::make_shared<Progress>("reading", "tokens"), tokens](int64_t done) {
    bar->update(done, tokens);
    if (done == tokens) bar->clear();
  };
}

}  // namespace sala
