#include "engine/benchmark.h"

#include <algorithm>
#include <chrono>

#include "base/random.h"
#include "engine/noise.h"
#include "engine/step_work.h"

namespace sala {
namespace {

constexpr int64_t kGenerated = 16;  // tokens of a sample
constexpr int kSamples = 3;         // at least

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

double rate(const Limits& limits, Compute compute) {
  return compute == Compute::int8   ? limits.int8
         : compute == Compute::bf16 ? limits.bf16
                                    : limits.f32;
}

std::vector<int> random_tokens(int64_t count, int64_t vocab, Random& random) {
  std::vector<int> tokens(static_cast<size_t>(count));
  for (int& id : tokens) id = static_cast<int>(random.below(vocab));
  return tokens;
}

}  // namespace

int64_t context_of(const std::vector<BenchCase>& cases, int page) {
  int64_t most = 0;
  for (const BenchCase& what : cases)  // a step before the first sample
    most = std::max(most, what.sequences * ((what.depth + what.tokens + page) / page * page));
  return most;
}

Benchmark::Benchmark(Runner& runner, Device& device) : runner_(runner), device_(device) {
  Arena nothing(device, 0);
  const Step step{.device = device,
                  .arena = nothing,
                  .compute = runner.options().compute,
                  .kv = runner.options().kv,
                  .on_blocks = {}};
  matmul_ = step.compute_for({.type = runner.model().type(), .storage = {}});
  mixing_ = step.attention_compute();
}

std::vector<Hold> Benchmark::begin(const BenchCase& what) {
  std::vector<Hold> holds;
  for (int64_t i = 0; i < what.sequences; ++i)
    holds.push_back(what.depth > 0 ? noise(runner_, what.depth) : runner_.open());
  return holds;
}

void Benchmark::step(std::vector<Hold>& holds, int64_t tokens, bool logits, Sample& sample) {
  const ModelConfig& config = runner_.model().config();
  const RunOptions& options = runner_.options();
  const auto count = static_cast<int64_t>(holds.size());
  const std::vector<int> ids = random_tokens(count * tokens, config.vocab, random_);
  const int64_t depth = holds[0].length();
  std::vector<Runner::Row> rows;
  for (int64_t i = 0; i < count; ++i)
    rows.push_back({.hold = holds[static_cast<size_t>(i)],
                    .tokens = std::span(ids).subspan(static_cast<size_t>(i * tokens),
                                                     static_cast<size_t>(tokens)),
                    .logits = logits ? 1 : 0,
                    .prompt = depth + tokens});
  const auto start = std::chrono::steady_clock::now();
  runner_.step(rows);
  device_.wait();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  sample.seconds += seconds.count();
  sample.tokens += count * tokens;
  // The weights are read once, whoever shares the step.
  const auto each = static_cast<double>(count);
  sample.bytes += static_cast<double>(runner_.model().step_bytes()) +
                  each * cache_bytes(config, options.kv, options.sparse, depth, tokens);
  sample.matmul += each * matmul_operations(config, tokens, rows[0].logits);
  sample.mixing += each * mixing_operations(config, options.sparse, depth, tokens);
}

void Benchmark::Sample::add(const Sample& other) {
  seconds += other.seconds;
  bytes += other.bytes;
  matmul += other.matmul;
  mixing += other.mixing;
  least += other.least;
  tokens += other.tokens;
}

double Benchmark::least_seconds(const Sample& sample, const Limits& limits) const {
  if (limits.read == 0) return 0;  // nobody knows
  return std::max(sample.bytes / limits.read,
                  sample.matmul / rate(limits, matmul_) + sample.mixing / rate(limits, mixing_));
}

BenchRow Benchmark::measure(const BenchCase& what) {
  const bool prompt = what.phase == BenchCase::Phase::prompt;
  std::vector<double> tokens, bytes, operations, shares;
  const auto note = [&](const Sample& sample) {
    tokens.push_back(static_cast<double>(sample.tokens) / sample.seconds);
    bytes.push_back(sample.bytes / sample.seconds);
    operations.push_back((sample.matmul + sample.mixing) / sample.seconds);
    shares.push_back(sample.least / sample.seconds);
  };
  Sample warm;
  {
    std::vector<Hold> holds = begin(what);
    for (int i = 0; i < 3; ++i) step(holds, 1, true, warm);  // a GPU records the second
  }
  measured_.push_back(device_.limits());
  for (int parts = 0; parts < kSamples;) {
    std::vector<Hold> holds = begin(what);
    Sample whole;
    for (int64_t done = 0; done < what.tokens; ++parts) {
      Sample part;
      const int64_t count =
          std::min<int64_t>(what.tokens - done, prompt ? runner_.options().chunk : kGenerated);
      if (prompt)
        step(holds, count, done + count == what.tokens, part);
      else
        for (int64_t i = 0; i < count; ++i) step(holds, 1, true, part);
      done += count;
      const Limits before = measured_.back(), after = device_.limits();
      measured_.push_back(after);
      part.least = (least_seconds(part, before) + least_seconds(part, after)) / 2;
      prompt ? whole.add(part) : note(part);
    }
    if (prompt) note(whole);
  }
  return {.what = what,
          .tokens = median(tokens),
          .bytes = median(bytes),
          .operations = median(operations),
          .share = median(shares)};
}

Limits Benchmark::limits() const {
  const auto of = [&](double Limits::* limit) {
    std::vector<double> values;
    for (const Limits& one : measured_) values.push_back(one.*limit);
    return median(values);
  };
  return {.read = of(&Limits::read),
          .f32 = of(&Limits::f32),
          .bf16 = of(&Limits::bf16),
          .int8 = of(&Limits::int8)};
}

}  // namespace sala
