#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "engine/open.h"
#include "engine/runner.h"

namespace sala {

/// Ctrl-C has ended a command, which has said so: `main` exits with 130.
struct Interrupted {};

/// A check of options: a number from `low` to `high`, whole where they are.
template <class T>
CLI::Validator number_from(T low, T high) {
  const auto check = [=](const std::string& text) -> std::string {
    T value{};
    const bool read = !text.empty() && CLI::detail::lexical_cast(text, value);
    if (read && value >= low && value <= high) return "";
    return fmt::format("\"{}\"; expected a {}number from {} to {}", text,
                       std::is_integral_v<T> ? "whole " : "", low, high);
  };
  return {check, fmt::format("{} in [{} - {}]", CLI::detail::type_name<T>(), low, high)};
}

/// Writes to standard error. What does not arrive there is no reason to end a command.
template <class... Args>
void tell(fmt::format_string<Args...> format, Args&&... args) {
  std::fputs(fmt::format(format, std::forward<Args>(args)...).c_str(), stderr);
}

/// Has `command`, when it is chosen, read an environment variable for every option: --top-p is
/// SALA_TOP_P, -n is SALA_N.
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
  int draft = 0;

  /// `compute` and `kv` hold the defaults of the command.
  void add_to(CLI::App& command);
  /// --draft-max, for commands that write replies.
  void add_draft_to(CLI::App& command);
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

/// Says so when a text is longer than any for which the model was made.
void tell_if_beyond(const ModelConfig& config, int64_t tokens);

/// The text that a user names: a file, a pipe, or - for standard input. Throws Error that names it,
/// also for a pipe that gives more than 1 GiB.
std::string read_input(const std::string& path);

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
/// The same for -t, -ngl, -m and -c of `sala run` and `sala chat`.
void rename_short_options(std::vector<std::string>& arguments);
void add_quantize(CLI::App& app);
void add_session(CLI::App& app);
/// `app` is the command `session`.
void add_session_ingest(CLI::App& app);

}  // namespace sala
