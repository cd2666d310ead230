// sala quantize: a checkpoint with weights of 8 or 4 bits, ready to be mapped.
#include "engine/quantize.h"

#include <chrono>

#include "base/error.h"
#include "base/json.h"
#include "base/parallel.h"
#include "tools/command.h"
#include "tools/progress.h"

namespace sala {
namespace {

struct QuantizeCommand {
  std::string in, out, type, calibrate;
  int group = 128, threads = 0;
  std::vector<std::string> keep;
  bool json = false;

  void run() const;
};

std::map<std::string, std::string> read_keep(const std::vector<std::string>& keep) {
  std::map<std::string, std::string> types;
  for (const std::string& item : keep) {
    const size_t equals = item.find('=');
    const std::string type = equals == std::string::npos ? "" : item.substr(equals + 1);
    if (equals == 0 ||
        (type != "f32" && type != "f16" && type != "bf16" && type != "w8" && type != "w4"))
      throw UsageError(fmt::format(
          "--keep {}: expected NAME=TYPE with f32, f16, bf16, w8 or w4, as in lm_head=bf16", item));
    types[item.substr(0, equals)] = type;
  }
  return types;
}

std::string size_of(int64_t bytes) {
  const auto size = static_cast<double>(bytes);
  return size < 1e9 ? fmt::format("{:.2f} MB", 1e-6 * size) : fmt::format("{:.2f} GB", 1e-9 * size);
}

void QuantizeCommand::run() const {
  const auto start = std::chrono::steady_clock::now();
  ThreadPool pool(threads > 0 ? threads : available_cores());
  Progress bar(calibrate.empty() ? "quantising" : "calibrating", "MB", 1e6);
  QuantizeOptions options{.narrow = type == "w4",
                          .group = group,
                          .keep = read_keep(keep),
                          .calibrate = calibrate,
                          .threads = threads};
  options.parallel = [&](int64_t count, const std::function<void(int64_t)>& work) {
    pool.run(count, [&](int64_t i, int) { work(i); });
  };
  options.progress = [&](int64_t done, int64_t total) { bar.update(done, total); };
  const QuantizeResult result = quantize(in, out, options);
  bar.clear();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (json) {
    fmt::print("{}\n", Json{{"out", out},
                            {"bytes", result.bytes},
                            {"types", result.types},
                            {"others", result.others},
                            {"seconds", seconds.count()}}
                           .dump());
    return;
  }
  fmt::print("{}: {} in {:.1f} s", out, size_of(result.bytes), seconds.count());
  for (const auto& [name, bytes] : result.types) fmt::print(", {} {}", name, size_of(bytes));
  fmt::print("\n");
  if (!result.others.empty())
    fmt::print("{} matrices have columns that {} does not divide, as {}: {}\n",
               result.others.size(), group, result.others.begin()->first,
               result.others.begin()->second);
}

}  // namespace

void add_quantize(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "quantize", "Write a model anew with weights of 8 or 4 bits, ready to be mapped");
  auto quantize = std::make_shared<QuantizeCommand>();
  command.add_option("in", quantize->in, "Hugging Face model directory")->required();
  command.add_option("out", quantize->out, "the directory to make")->required();
  command.add_option("--type", quantize->type, "bits of a weight: w8 or w4")
      ->required()
      ->check(CLI::IsMember({"w8", "w4"}));
  command.add_option("--group", quantize->group, "columns that share a scale: 32, 64 or 128")
      ->check(CLI::IsMember({32, 64, 128}))
      ->capture_default_str();
  command
      .add_option("--keep", quantize->keep,
                  "matrices with a type of their own, NAME=TYPE,...: f32, f16, bf16, w8, w4")
      ->delimiter(',');
  command.add_option("--calibrate", quantize->calibrate,
                     "a text: round so that what the model computes on it changes least");
  command.add_option("--threads", quantize->threads, "threads; 0 takes every core")
      ->check(number_from(0, 1024))
      ->capture_default_str();
  command.add_flag("--json", quantize->json, "print one JSON object");
  read_environment(command);
  command.callback([quantize] { quantize->run(); });
}

}  // namespace sala
