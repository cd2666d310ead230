#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "engine/open.h"
#include "engine/runner.h"

namespace sala {

/// Gives every option of `command` its environment variable: --top-p is SALA_TOP_P, -n is SALA_N.
void read_environment(CLI::App& command);

/// The type of keys and values that --kv names: auto is bf16. Throws UsageError for others.
KvType kv_type(const std::string& name);

/// The options of every command that computes with a model.
struct ModelOptions {
  std::string model{};
  std::string backend = "cpu", compute, kv, sparse = "always";
  int threads = 0, gpu_layers = -1;
  int chunk = 512;
  int64_t kv_memory = -1, cache_ram = 0, cache_disk = -1;  ///< bytes, as in RunOptions
  std::string cache_dir{};

  /// `compute` and `kv` hold the defaults of the command.
  void add_to(CLI::App& command);
  /// The same for Runner; throws Error for a value that is not known.
  RunOptions run_options() const;
};

/// A model in memory, ready to run.
struct LoadedModel {
  ModelFiles files;
  std::unique_ptr<Device> device{};
  std::unique_ptr<Model> model{};
  double load_seconds = 0.0;
};

/// Opens and loads what `options` name, with a progress bar.
LoadedModel load_model(const ModelOptions& options, OpenText text);

/// A listener for Runner::read that shows how far a prompt of `tokens` tokens is.
std::function<void(int64_t done)> prompt_progress(int64_t tokens);

/// The commands: each adds itself to the program.
void add_run(CLI::App& app);
void add_chat(CLI::App& app);
void add_logits(CLI::App& app);
void add_inspect(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_eval(CLI::App& app);
void add_trace(CLI::App& app);
void add_doctor(CLI::App& app);
void add_bench(CLI::App& app);
void add_serve(CLI::App& app);
/// Gives the short options of llama-server and vLLM that have several letters (-np, -ngl) the long
/// names that the parser reads.
void rename_serve_options(std::vector<std::string>& arguments);
void add_quantize(CLI::App& app);
void add_session(CLI::App& app);
/// `app` is the command `session`.
void add_session_ingest(CLI::App& app);

}  // namespace sala
