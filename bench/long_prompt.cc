// How a long prompt behaves on a model: seconds a token along the way, and memory against the
// closed form.
//
//   long_prompt MODEL TOKENS [auto|f32|bf16|int8] [THREADS]
//
// Random tokens; prints a line for every sixteenth of the prompt and a JSON object last.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/parallel.h"
#include "engine/open.h"
#include "engine/runner.h"

namespace {

using Clock = std::chrono::steady_clock;

/// Bytes of this process that are in memory now and belong to no file.
int64_t anonymous_memory() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    int64_t kib = 0;
    if (word == "RssAnon:" && file >> kib) return kib * 1024;
  }
  return 0;
}

sala::ComputeMode mode(const std::string& name) {
  if (name == "f32") return sala::ComputeMode::f32;
  if (name == "bf16") return sala::ComputeMode::bf16;
  if (name == "int8") return sala::ComputeMode::int8;
  if (name == "auto") return sala::ComputeMode::automatic;
  sala::fail("compute type is \"{}\"; expected auto, f32, bf16 or int8", name);
}

void run(const std::string& path, int64_t tokens, const std::string& compute, int threads) {
  sala::ModelFiles files = sala::open_model(path, sala::OpenText::no);
  sala::RunOptions options;
  options.threads = threads;
  options.compute = mode(compute);
  options.context = tokens;
  const auto device = sala::open_device(options);
  sala::ThreadPool pool(device->threads());
  files.weights.parallel = [&](int64_t count, const std::function<void(int64_t)>& work) {
    pool.run(count, [&](int64_t i, int) { work(i); });
  };
  const sala::Model model(files.config, files.weights);
  const int64_t loaded = anonymous_memory();

  sala::Runner runner(model, *device, options);
  std::mt19937 random(1);
  std::vector<int> prompt(static_cast<size_t>(tokens));
  for (int& id : prompt)
    id = static_cast<int>(random() % static_cast<uint32_t>(files.config.vocab));

  sala::Hold hold = runner.open();
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const std::clock_t cpu_start = std::clock();
  const auto cpu_seconds = [&] {
    return static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  };
  const int64_t step = std::max<int64_t>(tokens / 16, 1);
  int64_t reported = 0;
  double before = 0.0, half = 0.0, cpu_half = 0.0;
  const auto report = [&](int64_t done) {
    const double now = seconds();
    if (half == 0.0 && 2 * done >= tokens) {
      half = now;
      cpu_half = cpu_seconds();
    }
    if (done - reported < step && done < tokens) return true;
    fmt::print("{:>9} tokens  {:8.1f} s  {:7.3f} ms/token here\n", done, now,
               1e3 * (now - before) / static_cast<double>(done - reported));
    std::fflush(stdout);
    reported = done;
    before = now;
    return true;
  };
  runner.read(hold, prompt, {.wanted = 1, .on_progress = report});
  const double total = seconds(), cpu_total = cpu_seconds();
  const sala::RunMemory memory = runner.memory();
  const int64_t used = anonymous_memory() - loaded;
  const int64_t cache = memory.cache.total();
  fmt::print("{}\n",
             sala::Json{{"tokens", tokens},
                        {"compute", compute},
                        {"threads", device->threads()},
                        {"seconds", total},
                        {"tokens_per_second", static_cast<double>(tokens) / total},
                        {"second_half_over_first", (total - half) / half},
                        {"cpu_seconds", cpu_total},  // what a busy machine leaves comparable
                        {"cpu_second_half_over_first", (cpu_total - cpu_half) / cpu_half},
                        {"weights_bytes", model.weight_bytes()},
                        {"cache_bytes_closed_form", cache},
                        {"workspace_bytes", memory.workspace + device->scratch_bytes()},
                        {"bytes_used_beside_weights", used}}
                 .dump());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: long_prompt MODEL TOKENS [auto|f32|bf16|int8] [THREADS]\n", stderr);
    return 2;
  }
  try {
    run(argv[1], std::atoll(argv[2]), argc > 3 ? argv[3] : "auto",
        argc > 4 ? std::atoi(argv[4]) : 0);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "long_prompt: %s\n", e.what());
    return 1;
  }
}
