// sala bench: how fast a model is here, beside what this machine allows.
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/parallel.h"
#include "engine/benchmark.h"
#include "engine/machine.h"
#include "engine/session.h"
#include "tools/bench_svg.h"
#include "tools/command.h"
#include "tools/output_file.h"
#include "tools/progress.h"
#include "weights/packed.h"

namespace sala {
namespace {

struct BenchCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  std::string synthetic, type, svg;
  int layers = 0;
  std::vector<int64_t> prompts = {512}, depths = {0}, batches = {1};
  int64_t generated = 128;
  bool json = false;

  void run();
  LoadedModel load() const;
  LoadedModel make_synthetic() const;
  std::vector<BenchCase> cases(int page) const;
};

std::string_view name_of(BenchCase::Phase phase) {
  return phase == BenchCase::Phase::prompt ? "prompt" : "gen";
}

LoadedModel BenchCommand::make_synthetic() const {
  const auto weights = packed_type(type);
  if (!weights)
    throw UsageError(fmt::format(
        "--type is \"{}\"; expected one of f32, f16, bf16, w8, w8g64, w8g128, w4, w4g64, w4g128",
        type));
  const RunOptions run = model.run_options();
  ModelConfig config = read_config(synthetic);
  if (layers > config.layers())
    throw UsageError(fmt::format("--layers is {}; {} has {}", layers, synthetic, config.layers()));
  if (layers > 0) config.mixers.resize(static_cast<size_t>(layers));
  LoadedModel made{.files = {.path = synthetic,
                             .config = std::move(config),
                             .weights = WeightSource::random(*weights)}};
  made.device = open_device(run);
  made.files.weights.memory = made.device.get();
  ThreadPool pool(made.device->threads());
  made.files.weights.parallel = [&](int64_t count, const std::function<void(int64_t)>& work) {
    pool.run(count, [&](int64_t i, int) { work(i); });
  };
  made.model = std::make_unique<Model>(made.files.config, made.files.weights,
                                       host_layers(made.files.config, run));
  made.files.weights.parallel = {};
  return made;
}

LoadedModel BenchCommand::load() const {
  if (synthetic.empty() == model.model.empty())
    throw UsageError("give a model, or --synthetic CONFIG.json with --type, and not both");
  if (!synthetic.empty()) return make_synthetic();
  if (!type.empty() || layers > 0) throw UsageError("--type and --layers belong to --synthetic");
  return load_model(model, OpenText::no);
}

std::vector<BenchCase> BenchCommand::cases(int page) const {
  std::vector<BenchCase> all;
  for (const int64_t depth : depths) {
    if (depth % page != 0)
      throw UsageError(fmt::format("--depth is {}; expected multiples of {}, the tokens of a page",
                                   depth, page));
    for (const int64_t prompt : prompts)
      if (prompt > 0)
        all.push_back({.phase = BenchCase::Phase::prompt, .tokens = prompt, .depth = depth});
    for (const int64_t sequences : batches)
      if (generated > 0)
        all.push_back({.phase = BenchCase::Phase::gen,
                       .tokens = generated,
                       .depth = depth,
                       .sequences = sequences});
  }
  if (all.empty()) throw UsageError("--prompt and --gen are 0; there is nothing to measure");
  return all;
}

Json row_json(const BenchRow& row, int threads, const std::string& type) {
  return {{"phase", name_of(row.what.phase)},
          {"tokens", row.what.tokens},
          {"depth", row.what.depth},
          {"sequences", row.what.sequences},
          {"threads", threads},
          {"type", type},
          {"tok_s", row.tokens},
          {"gb_s", 1e-9 * row.bytes},
          {"gflop_s", 1e-9 * row.operations},
          {"share", row.share}};
}

void print_row(const BenchRow& row) {
  fmt::print("{:>6} {:>7} {:>9} {:>6} {:>10.2f} {:>8.1f} {:>9.1f} {:>6.0f} %\n",
             name_of(row.what.phase), row.what.tokens, row.what.depth, row.what.sequences,
             row.tokens, 1e-9 * row.bytes, 1e-9 * row.operations, 100 * row.share);
  std::fflush(stdout);
}

void BenchCommand::run() {
  expect_output("--svg", svg);
  const LoadedModel loaded = load();
  const std::vector<BenchCase> all = cases(loaded.files.config.page());
  RunOptions options = model.run_options();
  options.context = context_of(all, loaded.files.config.page());
  options.sequences = static_cast<int>(std::max<int64_t>(1, std::ranges::max(batches)));
  options.logits = options.sequences;
  make_room_for_snapshots(loaded.files.config, options, options.sequences);
  Runner runner(*loaded.model, *loaded.device, options);
  Benchmark benchmark(runner, *loaded.device);
  const int threads = loaded.device->threads();
  const std::string stored(name_of(loaded.model->type()));

  if (std::ranges::max(depths) > 0)
    tell("the texts in front (depth) are random keys, values and states\n");
  if (!json)
    fmt::print(
        "{}, weights {} ({:.2f} GB), {} threads\n{:>6} {:>7} {:>9} {:>6} {:>10} {:>8} {:>9} "
        "{:>8}\n",
        loaded.files.path.string(), stored,
        1e-9 * static_cast<double>(loaded.model->weight_bytes()), threads, "phase", "tokens",
        "depth", "texts", "tokens/s", "GB/s", "GFLOP/s", "limit");
  std::vector<BenchRow> rows;
  Progress bar("measuring", "samples");
  int64_t done = 0, total = 0;
  for (const BenchCase& what : all) total += benchmark.samples(what);
  for (const BenchCase& what : all) {
    rows.push_back(benchmark.measure(what, [&] { bar.update(++done, total); }));
    bar.clear();
    if (!json) print_row(rows.back());
  }
  const Limits limits = benchmark.limits();
  if (!svg.empty()) write_output("--svg", svg, bench_svg(rows));
  if (!json) {
    fmt::print(
        "this machine: {:.1f} GB/s, f32 {:.0f}, bf16 {:.0f} GFLOP/s, int8 {:.0f} GOP/s; memory at "
        "most {:.2f} GB\n",
        1e-9 * limits.read, 1e-9 * limits.f32, 1e-9 * limits.bf16, 1e-9 * limits.int8,
        1e-9 * static_cast<double>(peak_memory()));
    return;
  }
  Json out = {{"machine",
               {{"read_gbs", 1e-9 * limits.read},
                {"f32_gflops", 1e-9 * limits.f32},
                {"bf16_gflops", 1e-9 * limits.bf16},
                {"int8_gops", 1e-9 * limits.int8}}},
              {"memory",
               {{"weights", loaded.model->weight_bytes()},
                {"cache", runner.memory().cache.total()},
                {"workspace", runner.memory().workspace + loaded.device->scratch_bytes()},
                {"peak", peak_memory()}}},
              {"rows", Json::array()}};
  for (const BenchRow& row : rows) out["rows"].push_back(row_json(row, threads, stored));
  fmt::print("{}\n", out.dump());
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "bench",
      "Measure tokens per second, beside what memory and arithmetic of this machine allow");
  auto bench = std::make_shared<BenchCommand>();
  bench->model.add_to(command);
  command.get_option("model")->required(false);
  const auto numbers = [&](const char* name, std::vector<int64_t>& values, int64_t least,
                           int64_t most, const char* what) {
    command.add_option(name, values, what)
        ->delimiter(',')
        ->check(number_from(least, most))
        ->capture_default_str();
  };
  constexpr int64_t kMostTokens = int64_t{1} << 32;
  numbers("--prompt", bench->prompts, 0, kMostTokens,
          "tokens of prompts to read, e.g. 512,4096; 0: none");
  command.add_option("--gen", bench->generated, "tokens to generate; 0: none")
      ->check(number_from(int64_t{0}, kMostTokens))
      ->capture_default_str();
  numbers("--batch", bench->batches, 1, 1 << 16, "texts that are continued together, e.g. 1,8,32");
  numbers("--depth", bench->depths, 0, kMostTokens,
          "tokens in front of them, e.g. 0,4096,131072: random keys, values and states");
  command.add_option("--synthetic", bench->synthetic,
                     "config.json of a model to make of random weights, in memory");
  command.add_option("--type", bench->type,
                     "its weights: f32, f16, bf16, w8, w4, or these with g64 or g128");
  command.add_option("--layers", bench->layers, "its first N layers only [default: all]")
      ->check(number_from(1, 1 << 16));
  command.add_option("--svg", bench->svg, "picture to write: tokens per second against depth");
  command.add_flag("--json", bench->json, "print one JSON object");
  read_environment(command);
  command.callback([bench] { bench->run(); });
}

}  // namespace sala
