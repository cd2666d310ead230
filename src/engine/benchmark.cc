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
  for (const BenchCase& what : cases) most = std::max(most, what.depth + what.tokens);
  return (most + page) / page * page;  // a step before the first sample
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

Hold Benchmark::begin(int64_t depth) { return depth > 0 ? noise(runner_, depth) : runner_.open(); }

void Benchmark::step(Hold& hold, int64_t tokens, bool logits, Sample& sample) {
  const ModelConfig& config = runner_.model().config();
  const RunOptions& options = runner_.options();
  const std::vector<int> ids = random_tokens(tokens, config.vocab, random_);
  const int64_t depth = hold.length();
  Runner::Row row{.hold = hold, .tokens = ids, .logits = logits ? 1 : 0, .prompt = depth + tokens};
  const auto start = std::chrono::steady_clock::now();
  runner_.step({&row, 1});
  device_.wait();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  sample.seconds += seconds.count();
  sample.tokens += tokens;
  sample.bytes += static_cast<double>(runner_.model().step_bytes()) +
                  cache_bytes(config, options.kv, options.sparse, depth, tokens);
  sample.matmul += matmul_operations(config, tokens, row.logits);
  sample.mixing += mixing_operations(config, options.sparse, depth, tokens);
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
    Hold hold = begin(what.depth);
    step(hold, 1, true, warm);
  }
  measured_.push_back(device_.limits());
  for (int parts = 0; parts < kSamples;) {
    Hold hold = begin(what.depth);
    Sample whole;
    for (int64_t done = 0; done < what.tokens; ++parts) {
      Sample part;
      const int64_t count =
          std::min<int64_t>(what.tokens - done, prompt ? runner_.options().chunk : kGenerated);
      if (prompt)
        step(hold, count, done + count == what.tokens, part);
      else
        for (int64_t i = 0; i < count; ++i) step(hold, 1, true, part);
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
