#include "engine/benchmark.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/noise.h"
#include "engine/session.h"
#include "engine/step_work.h"
#include "engine/testing.h"
#include "weights/random.h"

namespace sala {
namespace {

using testing::tiny_sala;

Model random_model(const ModelConfig& config, WeightType type) {
  WeightSource source = WeightSource::random(type);
  return Model(config, source);
}

TEST(StepWork, CountsEveryMatrixOnce) {
  ModelConfig config = tiny_sala();
  config.vocab = 64;  // whole panels: f32 weights then have four bytes a number
  const Model model = random_model(config, WeightType::f32);
  const auto numbers = static_cast<double>(model.step_bytes()) / 4;
  EXPECT_DOUBLE_EQ(matmul_operations(config, 1, 1), 2 * numbers);
  EXPECT_DOUBLE_EQ(matmul_operations(config, 7, 0), 7 * 2 * (numbers - 64 * 64));
}

TEST(StepWork, MixingOfAPromptIsTheSumOfItsSteps) {
  const ModelConfig config = tiny_sala();
  for (const SparsePolicy sparse : {SparsePolicy::always, SparsePolicy::dense}) {
    double sum = 0;
    for (int64_t depth = 0; depth < 512; depth += 64)
      sum += mixing_operations(config, sparse, depth, 64);
    EXPECT_DOUBLE_EQ(sum, mixing_operations(config, sparse, 0, 512));
  }
  // One query behind 10^6 others, by hand: 2 layers of 4 heads of 16, 5 blocks of 16 tokens, the
  // index with a key every 4 tokens and a quarter of that; 2 layers of 6 states of 16 x 16.
  const double attention = 2 * (4.0 * 4 * 16 * 80 + 2.0 * 4 * 16 * 1.25 / 4 * 1000000.5);
  const double lightning = 2 * 6 * (2.0 * 32 * 16 + 4.0 * 16 * 16);
  EXPECT_NEAR(mixing_operations(config, SparsePolicy::always, 1000000, 1), attention + lightning,
              1e-6 * attention);
}

TEST(StepWork, ReadsChosenBlocksOrAll) {
  const ModelConfig config = tiny_sala();
  const auto bytes = [&](SparsePolicy sparse, int64_t depth, int64_t tokens) {
    return cache_bytes(config, KvType::bf16, sparse, depth, tokens);
  };
  // A token of two layers: k and v of 2 heads of 16 in bf16.
  constexpr double kToken = 2 * 2 * 2 * 16 * 2;
  const double dense = bytes(SparsePolicy::dense, 1600, 0);
  EXPECT_DOUBLE_EQ(bytes(SparsePolicy::dense, 3200, 0) - dense, 1600 * kToken);
  const double index = 1600 * kToken / 2 / 4 * 1.25;  // of keys, every fourth and every sixteenth
  EXPECT_DOUBLE_EQ(bytes(SparsePolicy::always, 1600, 0), dense - (1600 - 80) * kToken + index);
  EXPECT_DOUBLE_EQ(bytes(SparsePolicy::always, 3136, 64),
                   bytes(SparsePolicy::dense, 3136, 64) + 2 * index);  // 64 queries choose all
}

TEST(RandomWeight, KeepsTheSizeOfWhatEnters) {
  const auto serial = [](int64_t count, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < count; ++i) work(i);
  };
  for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::bf16, WeightType::w8,
                                WeightType::w4, WeightType::w8g128, WeightType::w4g64}) {
    const Weight weight = random_weight(type, 64, 256, false, serial);
    std::vector<float> row(256);
    double sum = 0, squares = 0;
    for (int64_t n = 0; n < 64; ++n) {
      unpack_row(weight, 0, n, row);
      for (const float x : row) sum += x, squares += double{x} * x;
    }
    EXPECT_NEAR(sum / (64 * 256), 0, 0.003) << name_of(type);
    EXPECT_NEAR(squares / 64, 1, 0.05) << name_of(type);
  }
}

TEST(RandomWeight, RefusesGroupsThatDoNotDivide) {
  try {
    random_model(tiny_sala(), WeightType::w4g128);
    FAIL() << "64 columns in groups of 128";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("64 columns, not a multiple of 128"), std::string::npos)
        << e.what();
  }
}

TEST(Noise, CanBeReadOn) {
  const ModelConfig config = tiny_sala();
  const Model model = random_model(config, WeightType::f32);
  for (const KvType kv : kKvTypes) {
    RunOptions options{.kv = kv, .chunk = 16, .context = 1024};
    make_room_for_snapshots(config, options, 1);
    const auto device = open_device(options);
    Runner runner(model, *device, options);
    for (int again = 0; again < 2; ++again) {  // all of it is given back
      Hold hold = noise(runner, 960);
      EXPECT_EQ(hold.length(), 960);
      const Hold* holds[] = {&hold};
      runner.cache().check_integrity(holds);
      for (int i = 0; i < runner.cache().layers(); ++i)
        EXPECT_FALSE(runner.cache().layer(i).managed()) << "a page is still elsewhere";
      const std::vector<int> tokens = {5, 7};
      Runner::Row row{.hold = hold, .tokens = tokens, .logits = 1};
      const In logits = runner.step({&row, 1});
      for (int64_t i = 0; i < logits.size(); ++i)
        ASSERT_TRUE(std::isfinite(logits.as<float>()[i])) << name_of(kv);
    }
  }
}

TEST(Benchmark, MeasuresWhatItWasAsked) {
  const ModelConfig config = tiny_sala();
  const Model model = random_model(config, WeightType::w4);
  const std::vector<BenchCase> cases = {
      {.phase = BenchCase::Phase::prompt, .tokens = 40, .depth = 0},
      {.phase = BenchCase::Phase::gen, .tokens = 20, .depth = 160}};
  RunOptions options{.threads = 2, .chunk = 16, .context = context_of(cases, config.page())};
  make_room_for_snapshots(config, options, 1);
  const auto device = open_device(options);
  Runner runner(model, *device, options);
  Benchmark benchmark(runner, *device);
  for (const BenchCase& what : cases) {
    const BenchRow row = benchmark.measure(what);
    EXPECT_EQ(row.what.tokens, what.tokens);
    EXPECT_GT(row.tokens, 0);
    EXPECT_GT(row.bytes, row.tokens);
    EXPECT_GT(row.operations, row.bytes / 100);
    EXPECT_GT(row.share, 0);
  }
  EXPECT_GT(benchmark.limits().read, 0);
}

}  // namespace
}  // namespace sala
