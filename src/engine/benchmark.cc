#include "engine/benchmark.h"

#include <algorithm>
#include <chrono>

#include "base/random.h"
#include "engine/noise.h"
#include "engine/step_work.h"

namespace sala {
namespace {

constexpr int64_t kGenerated = 16;  // tokens of a sample
constexpr int64_t kSamples = 3;     // at least

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

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

/// Launches a step of as many tokens for each sequence, and counts its work.
void Benchmark::launch(std::vector<Hold>& holds, std::span<const int> tokens, bool logits,
                       Sample& sample) {
  const ModelConfig& config = runner_.model().config();
  const RunOptions& options = runner_.options();
  const int64_t depth = holds[0].length(), each = std::ssize(tokens) / std::ssize(holds);
  std::vector<Runner::Row> rows;
  for (size_t i = 0; i < holds.size(); ++i)
    rows.push_back(
        {.hold = holds[i],
         .tokens = tokens.subspan(i * static_cast<size_t>(each), static_cast<size_t>(each)),
         .logits = logits ? 1 : 0,
         .prompt = depth + each,
         .draw = SampleRow{}});
  runner_.launch(rows);
  sample.tokens += std::ssize(tokens);
  // The weights are read once, whoever shares the step.
  const auto count = static_cast<double>(holds.size());
  sample.bytes += static_cast<double>(runner_.model().step_bytes()) +
                  count * cache_bytes(config, options.kv, options.sparse, depth, each);
  sample.matmul += count * matmul_operations(config, each, rows[0].logits);
  sample.mixing += count * mixing_operations(config, options.sparse, depth, each);
}

/// One step of a prompt.
void Benchmark::read(std::vector<Hold>& holds, int64_t tokens, bool logits, Sample& sample) {
  const auto ids =
      random_tokens(std::ssize(holds) * tokens, runner_.model().config().vocab, random_);
  const auto start = Clock::now();
  launch(holds, ids, logits, sample);
  runner_.finish();
  device_.wait();
  sample.seconds += seconds_since(start);
}

/// Tokens of replies, in steps as the engine takes them: each behind the one that was drawn, where
/// the device can go ahead.
void Benchmark::write(std::vector<Hold>& holds, int64_t tokens, Sample& sample) {
  const int64_t vocab = runner_.model().config().vocab;
  std::vector<int> drawn;
  for (int64_t i = 0; i < std::ssize(holds); ++i) drawn.push_back(drawn_id(i));
  const auto start = Clock::now();
  for (int64_t i = 0; i < tokens; ++i) {
    if (runner_.launched() == 0)
      launch(holds, random_tokens(std::ssize(holds), vocab, random_), true, sample);
    if (i + 1 < tokens && runner_.can_go_ahead()) launch(holds, drawn, true, sample);
    runner_.finish();
  }
  sample.seconds += seconds_since(start);
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

int64_t Benchmark::sample_tokens(const BenchCase& what) const {
  return what.phase == BenchCase::Phase::prompt ? runner_.options().chunk : kGenerated;
}

int64_t Benchmark::samples(const BenchCase& what) const {
  const int64_t each = sample_tokens(what), once = (what.tokens + each - 1) / each;
  return (kSamples + once - 1) / once * once;
}

BenchRow Benchmark::measure(const BenchCase& what, const std::function<void()>& on_sample) {
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
    write(holds, 3, warm);  // a GPU records the second step
  }
  measured_.push_back(device_.limits());
  for (int64_t parts = 0; parts < kSamples;) {
    std::vector<Hold> holds = begin(what);
    Sample whole;
    for (int64_t done = 0; done < what.tokens; ++parts) {
      Sample part;
      const int64_t count = std::min(what.tokens - done, sample_tokens(what));
      if (prompt)
        read(holds, count, done + count == what.tokens, part);
      else
        write(holds, count, part);
      done += count;
      const Limits before = measured_.back(), after = device_.limits();
      measured_.push_back(after);
      part.least = (least_seconds(part, before) + least_seconds(part, after)) / 2;
      prompt ? whole.add(part) : note(part);
      if (on_sample) on_sample();
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
