// Whole models on the CUDA backend's kernels, under emulation: the logits of the CPU within a
// bound, and those of one prompt whatever the pieces it is read in.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/testing.h"
#include "cpu/device.h"
#include "cuda/device.h"
#include "engine/runner.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/testing.h"

namespace sala {
namespace {

struct Case {
  testing::Mode mode;
  double bound;               ///< of the largest logit
  bool tensor_cores = false;  ///< heads and pages of sizes that attention's tensor cores take
};

class CudaModel : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kTokens = 150;

  /// Logits of every token, the prompt fed in `pieces`, tokens each.
  std::vector<float> run(Device& device, const std::vector<int64_t>& pieces) {
    RunOptions o;
    o.compute = GetParam().mode.compute;
    o.kv = GetParam().mode.kv;
    o.sparse = GetParam().mode.policy;
    o.chunk = static_cast<int>(kTokens);
    o.logits = kTokens;
    o.context = kTokens;
    ModelConfig config = testing::tiny_sala();
    if (GetParam().tensor_cores) {
      config.attention.head_dim = 64;
      config.attention.sparse = {.kernel_size = 32,
                                 .kernel_stride = 16,
                                 .block_size = 64,
                                 .init_blocks = 1,
                                 .window_size = 64,
                                 .topk = 2,
                                 .dense_len = 128};
    }
    const auto model = testing::random_model(config, GetParam().mode.weights, &device);
    Runner runner(*model, device, o);
    Hold hold = runner.open();
    std::vector<float> all;
    int64_t at = 0;
    for (const int64_t count : pieces) {
      Runner::Row row{
          .hold = hold,
          .tokens = std::span(prompt_).subspan(static_cast<size_t>(at), static_cast<size_t>(count)),
          .logits = count};
      const In logits = runner.step({&row, 1});
      all.insert(all.end(), logits.as<float>(), logits.as<float>() + logits.size());
      at += count;
    }
    return all;
  }

  const std::vector<int> prompt_ = testing::random_text(kTokens);
};

TEST_P(CudaModel, HasTheLogitsOfTheCpuInPiecesOfAnySize) {
  const auto cpu = open_cpu(1);
  const std::vector<float> expected = run(*cpu, {kTokens});
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::abs(x));
  // Single tokens at the beginning, and behind pieces past the end of a page and of two cells.
  std::vector<int64_t> mixed(22, 1);
  mixed.insert(mixed.begin() + 5, {37, 53});
  mixed.insert(mixed.begin() + 15, {21, 17});
  ASSERT_EQ(std::accumulate(mixed.begin(), mixed.end(), int64_t{0}), kTokens);
  for (const std::vector<int64_t>& pieces : {std::vector{kTokens}, mixed}) {
    const auto device = open_cuda();
    const std::vector<float> logits = run(*device, pieces);
    ASSERT_EQ(logits.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(logits[i], expected[i], GetParam().bound * largest)
          << pieces.size() << " pieces, token " << i / 61;
  }
}

std::vector<Case> cases() {
  using enum SparsePolicy;
  return {{{StoredType::f32, ComputeMode::f32, KvType::f32, always}, 1e-5},
          {{StoredType::f32, ComputeMode::f32, KvType::f32, dense}, 1e-5},
          // A code may be another where sums differ in their last bit.
          {{StoredType::f32, ComputeMode::f32, KvType::int8, always}, 1e-4},
          {{StoredType::f32, ComputeMode::f32, KvType::int4, per_query}, 1e-3},
          // Rounding of codes and bf16 differs where sums differ in their last bit, and with sparse
          // attention a block may then be another: dense, and a bound of a few such roundings.
          {{StoredType::bf16, ComputeMode::bf16, KvType::bf16, dense}, 4e-2},
          {{StoredType::bf16, ComputeMode::bf16, KvType::bf16, dense}, 4e-2, true},
          {{StoredType::q8_0, ComputeMode::int8, KvType::bf16, dense}, 4e-2},
          // Weights of four bits are rounded to bf16, too.
          {{StoredType::q4_1, ComputeMode::bf16, KvType::bf16, dense}, 8e-2},
          {{StoredType::q4_1, ComputeMode::int8, KvType::bf16, dense}, 4e-2},
          // Codes of keys and values may be others too.
          {{StoredType::bf16, ComputeMode::bf16, KvType::int8, dense}, 8e-2, true},
          {{StoredType::bf16, ComputeMode::bf16, KvType::int4, dense}, 2e-1, true}};
}

/// One model in the GPU's memory, f32.
class CudaMemory : public ::testing::Test {
 protected:
  static constexpr int64_t kLongest = 400;

  static RunOptions options() {
    RunOptions o;
    o.compute = ComputeMode::f32;
    o.kv = KvType::f32;
    o.chunk = 64;
    o.context = kLongest;
    o.sequences = 3;
    o.logits = 3;
    make_room_for_snapshots(testing::tiny_sala(), o);
    return o;
  }

  using Logits = std::vector<float>;
  using Text = std::vector<int>;

  static Logits read(Runner& runner, Hold& hold, const Text& text) {
    Logits got;
    runner.read(hold, text, {.wanted = 1, .on_logits = [&](In l) {
                               got.assign(l.as<float>(), l.as<float>() + l.size());
                             }});
    return got;
  }
  /// The logits behind `text` of a run that knows nothing before.
  Logits truth(const Text& text) {
    Runner cold(*model_, *device_, options());
    Hold hold = cold.open();
    return read(cold, hold, text);
  }
  static void expect_near(const Logits& got, const Logits& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5) << "token " << i;
  }
  static Text joined(Text text, const Text& more) {
    text.insert(text.end(), more.begin(), more.end());
    return text;
  }

  const std::unique_ptr<Device> device_ = open_cuda();
  const std::unique_ptr<Model> model_ =
      testing::random_model(testing::tiny_sala(), StoredType::f32, device_.get());
  const Text first_ = testing::random_text(170), more_ = testing::random_text(40, 8),
             other_ = testing::random_text(35, 9);
};

TEST_F(CudaMemory, OfTextsIsSharedForkedAndRolledBack) {
  Runner runner(*model_, *device_, options());
  const Text a = joined(first_, more_), b = joined(first_, other_);
  const Logits of_a = truth(a), of_b = truth(b);
  {
    Hold hold = runner.open();
    expect_near(read(runner, hold, first_), truth(first_));
    runner.cache().snapshot(hold);
    Hold twin = runner.cache().fork(hold);  // their next pages part
    expect_near(read(runner, twin, b), of_b);
    expect_near(read(runner, hold, a), of_a);
    runner.cache().roll_back(hold, std::ssize(first_));
    expect_near(read(runner, hold, b), of_b);
    runner.cache().remember(hold, b);
  }
  Hold hold = runner.open(a);
  EXPECT_GT(hold.kept(), 150);
  EXPECT_GT(hold.length(), 0);
  expect_near(read(runner, hold, a), of_a);
}

TEST_F(CudaMemory, OfStrangersInOneStepIsTheirOwn) {
  Runner runner(*model_, *device_, options());
  Hold a = runner.open(), b = runner.open(), c = runner.open();
  read(runner, a, first_);
  read(runner, b, other_);
  Text of_a = first_, of_b = other_, of_c;
  // c comes later and reads three tokens a step, so that shapes and gathered rows vary.
  for (int step = 0; step < 20; ++step) {
    const int token = more_[static_cast<size_t>(step)];
    of_a.push_back(token);
    of_b.push_back(token);
    const Text three(3, token);
    std::vector<Runner::Row> rows;
    rows.push_back({.hold = a, .tokens = {&of_a.back(), 1}, .logits = 1});
    if (step >= 8) {
      rows.push_back({.hold = c, .tokens = three, .logits = 1});
      of_c.insert(of_c.end(), three.begin(), three.end());
    }
    rows.push_back({.hold = b, .tokens = {&of_b.back(), 1}, .logits = 1});
    const In logits = runner.step(rows);
    if (step != 7 && step != 19) continue;
    const auto row = [&](int64_t i) {
      return Logits(logits.row<float>(i), logits.row<float>(i) + 61);
    };
    expect_near(row(0), truth(of_a));
    expect_near(row(logits.dim[0] - 1), truth(of_b));
    if (step >= 8) expect_near(row(1), truth(of_c));
  }
}

TEST_F(CudaMemory, GivesBackTheTokensThatTheHostWouldDraw) {
  Runner runner(*model_, *device_, options());
  Hold drawing = runner.open(), telling = runner.open();
  read(runner, drawing, first_);
  read(runner, telling, first_);
  const SamplingParams params{.temperature = 1.5, .top_k = 20, .top_p = 0.9, .seed = 4};
  Sampler gpu(params, 61), host(params, 61);
  int token = 5;
  for (int i = 0; i < 12; ++i) {
    Runner::Row rows[] = {
        {.hold = drawing, .tokens = {&token, 1}, .logits = 1, .draw = gpu.row()},
        {.hold = telling, .tokens = {&token, 1}, .logits = 1},
    };
    const In logits = runner.step(rows);
    ASSERT_EQ(runner.drawn()[1], kNoToken);
    const int drawn = runner.drawn()[0], expected = host.sample({logits.row<float>(1), 61});
    ASSERT_EQ(drawn, expected) << "token " << i;
    token = drawn;
    gpu.accept(token);
    host.accept(token);
  }
}

TEST_F(CudaMemory, OfLayersMayLieWithTheHost) {
  RunOptions o = options();
  o.kv_memory = 3 * memory_of(cache_specs(testing::tiny_sala(), o.kv), 16, kLongest).kv / 4;
  Runner runner(*model_, *device_, o);
  EXPECT_GT(runner.memory().on_host, 0);
  EXPECT_LE(runner.memory().cache.kv, o.kv_memory);
  const std::byte* first = runner.cache().layer(0)[0].data;
  const std::byte* last = runner.cache().layer(3)[0].data;
  EXPECT_EQ(*last, std::byte{0});  // within the host's reach
  EXPECT_DEATH(EXPECT_EQ(*first, std::byte{0}), "");
  Hold hold = runner.open();
  expect_near(read(runner, hold, first_), truth(first_));
}

TEST_F(CudaMemory, OfTheFirstLayersMayBeTheHosts) {
  const Text text = joined(first_, more_);
  const Logits expected = truth(text);
  for (const int host_layers : {1, 3, 4}) {
    const testing::RandomWeights weights(testing::tiny_sala(), StoredType::f32, 5);
    WeightSource source = weights.source();
    source.memory = device_.get();
    const Model model(testing::tiny_sala(), source, host_layers);
    RunOptions o = options();
    o.threads = 1;
    Runner runner(model, *device_, o);
    EXPECT_GT(runner.memory().on_host, 0);
    Hold hold = runner.open();
    read(runner, hold, Text(first_.begin(), first_.begin() + 100));
    runner.cache().snapshot(hold);
    read(runner, hold, first_);
    runner.cache().roll_back(hold, 120);  // states of both come back from a snapshot
    expect_near(read(runner, hold, text), expected);
  }
}

TEST_F(CudaMemory, OfASessionComesBackFromTheDisk) {
  const testing::Scratch scratch;
  const testing::RandomWeights weights(testing::tiny_sala(), StoredType::f32, 5);
  const ModelFiles files{
      .path = "tiny", .config = testing::tiny_sala(), .weights = weights.source()};
  const SessionFacts facts = session_facts(files, *model_, *device_, options());
  const auto dir = scratch.dir() / "a";
  {
    Session session = Session::create(dir, "tiny", facts);
    Runner runner(*model_, *device_, options());
    Hold hold = runner.open();
    read(runner, hold, first_);
    session.save(runner, hold, first_);
  }
  const Session session = Session::open(dir, Session::Access::write, facts, false);
  Runner runner(*model_, *device_, options());
  Hold hold = session.restore(runner, std::ssize(first_));
  EXPECT_EQ(hold.kept(), std::ssize(first_));
  EXPECT_FALSE(runner.cache().managed());  // the GPU has all of it
  expect_near(read(runner, hold, joined(first_, more_)), truth(joined(first_, more_)));
}

TEST_F(CudaMemory, OfTheDeviceIsOutOfTheHostsReach) {
  const Tensor x(*device_, DType::f32, {4});
  EXPECT_DEATH(EXPECT_EQ(*x.view().as<float>(), 0.0f), "");
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaModel, ::testing::ValuesIn(cases()), [](const auto& tested) {
  return tested.param.mode.name() + (tested.param.tensor_cores ? "_tensorcores" : "");
});

}  // namespace
}  // namespace sala
