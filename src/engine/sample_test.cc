// The op `sample` chooses what the host's Sampler chooses: the reference's and the CUDA backend's
// kernels, under emulation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "cuda/device.h"
#include "engine/sampler.h"
#include "ops/device.h"

namespace sala {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What a row of logits looks like.
enum class Look : uint8_t {
  normal,   ///< as a model's
  peaked,   ///< one or two tokens have nearly everything
  flat,     ///< nearly or exactly equal
  ties,     ///< few different values, -0 and 0 among them
  banned,   ///< most are -infinity
  extreme,  ///< up to the largest floats
  tiny,     ///< denormal numbers
  many
};

class Inputs {
 public:
  explicit Inputs(uint32_t seed) : random_(seed) {}

  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }

  void fill(std::span<float> row) {
    const auto look = static_cast<Look>(random_() % static_cast<uint32_t>(Look::many));
    const float spread = one_of({0.3f, 1.0f, 3.0f, 10.0f});
    const bool equal = random_() % 2 == 0;
    for (float& x : row) {
      x = spread * normal_(random_);
      if (look == Look::flat) x = equal ? 1.5f : 1.0f + 1e-6f * x;
      if (look == Look::ties) x = std::round(x) / 4;
      if (look == Look::banned && random_() % 8 != 0) x = -kInfinity;
      if (look == Look::extreme) x = std::ldexp(x, static_cast<int>(random_() % 120));
      if (look == Look::tiny) x *= 1e-40f;
    }
    if (look == Look::peaked)
      for (auto i = random_() % 3; i > 0; --i) row[random_() % row.size()] = 15.0f * spread;
    if (random_() % 24 == 0)  // damaged
      row[random_() % row.size()] =
          one_of({std::nanf(""), -std::nanf(""), kInfinity, -kInfinity, -0.0f});
    if (random_() % 100 == 0) std::ranges::fill(row, -kInfinity);
  }

  SamplingParams params() {
    return {.temperature = one_of({0.0, 1e-6, 0.01, 0.3, 0.9, 1.0, 5.0, 1e4}),
            .top_k = one_of<int64_t>({0, 0, 1, 5, 40, 700, 100000}),
            .top_p = one_of({0.0, 0.1, 0.5, 0.95, 0.999, 1.0, 1.0}),
            .min_p = one_of({0.0, 0.0, 1e-14, 0.05, 0.5, 1.0}),
            .seed = random_()};
  }

 private:
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
};

int chosen(Sampler& sampler, std::span<const float> logits) {
  try {
    return sampler.sample(logits);
  } catch (const Error&) {
    return kNoToken;
  }
}

/// Rows of `vocab` logits that lie `gap` floats further apart, in steps of up to 12 rows.
void expect_agreement(Device& device, Inputs& inputs, int64_t vocab, int64_t gap, int steps) {
  int drawn = 0;
  for (int step = 0; step < steps; ++step) {
    const auto B = inputs.one_of<int64_t>({1, 3, 12});
    Tensor all(DType::f32, {B, vocab + gap});
    const Out logits = columns(all.view(), gap, vocab);
    Tensor rows(DType::u8, {B, static_cast<int64_t>(sizeof(SampleRow))});
    Tensor tokens(DType::i32, {B});
    std::vector<Sampler> samplers;
    for (int64_t b = 0; b < B; ++b) {
      inputs.fill({logits.row<float>(b), static_cast<size_t>(vocab)});
      const Sampler& sampler = samplers.emplace_back(inputs.params(), vocab);
      *reinterpret_cast<SampleRow*>(rows.view().row<uint8_t>(b)) = sampler.row().value();
    }
    sample(device, logits, rows, tokens);
    device.wait();
    for (int64_t b = 0; b < B; ++b) {
      const SampleRow& row = *reinterpret_cast<SampleRow*>(rows.view().row<uint8_t>(b));
      const int expected = chosen(samplers[static_cast<size_t>(b)],
                                  {logits.row<float>(b), static_cast<size_t>(vocab)});
      ASSERT_EQ(tokens.view().as<int32_t>()[b], expected)
          << "row " << b << " of " << B << " in step " << step << ", vocabulary " << vocab
          << ": temperature " << row.temperature << ", top_k " << row.top_k << ", top_p "
          << row.top_p << ", min_p " << row.min_p << ", draw " << row.draw;
      drawn += expected > 0 ? 1 : 0;
    }
  }
  EXPECT_TRUE(vocab == 1 || drawn > 0);
}

void expect_agreement(Device& device) {
  Inputs inputs(7);
  for (const int64_t vocab : {1, 2, 61, 1000}) {
    expect_agreement(device, inputs, vocab, 0, vocab > 50 ? 100 : 40);
    expect_agreement(device, inputs, vocab, 3, 15);
  }
  expect_agreement(device, inputs, 5003, 0, 25);
  expect_agreement(device, inputs, 73448, 0, 7);
}

TEST(SampleReference, ChoosesWhatTheHostChooses) { expect_agreement(*open_reference()); }
TEST(SampleCuda, ChoosesWhatTheHostChooses) { expect_agreement(*open_cuda()); }

// A bin of more tokens than shared memory holds, and cuts among equals.
TEST(SampleCuda, FindsThePlaceAmongManyEquals) {
  const auto device = open_cuda();
  constexpr int64_t kVocab = 6000;
  Tensor logits(DType::f32, {1, kVocab}), rows(DType::u8, {1, sizeof(SampleRow)});
  Tensor tokens(DType::i32, {1});
  std::fill_n(logits.view().as<float>(), kVocab, -3.0f);
  const auto token = [&](const SampleRow& row) {
    *reinterpret_cast<SampleRow*>(rows.view().as<uint8_t>()) = row;
    sample(*device, logits, rows, tokens);
    device->wait();
    return *tokens.view().as<int32_t>();
  };
  constexpr double kLast = 1.0 - 0x1p-53;
  EXPECT_EQ(token({.temperature = 1, .draw = 0}), 0);
  EXPECT_EQ(token({.temperature = 1, .draw = kLast}), kVocab - 1);
  EXPECT_EQ(token({.temperature = 1, .top_p = 0.5, .draw = kLast}), kVocab / 2 - 1);
  EXPECT_EQ(token({.temperature = 1, .min_p = 1.0, .draw = 0.75}), kVocab / 4 * 3);
  EXPECT_EQ(token({.temperature = 1, .draw = kLast, .top_k = 2500}), 2499);
  EXPECT_EQ(token({.temperature = 1, .top_p = 0.5, .draw = kLast, .top_k = 2500}), 1249);
  logits.view().as<float>()[4000] = -2.0f;
  EXPECT_EQ(token({.temperature = 0}), 4000);
  EXPECT_EQ(token({.temperature = 1, .draw = kLast, .top_k = 5001}), 5000);
  EXPECT_EQ(token({.temperature = 1, .draw = kLast, .top_k = 4001}), 3999);
}

TEST(TokenWeights, SharesLieInside) {
  for (const uint64_t mass :
       {uint64_t{1}, uint64_t{3}, uint64_t{1} << 40, (uint64_t{1} << 62) + 1}) {
    EXPECT_EQ(place_of_draw(0.0, mass), 0u);
    EXPECT_LT(place_of_draw(1.0 - 0x1p-53, mass), mass);
    EXPECT_EQ(mass_of_top_p(0.0, mass), 1u);
    EXPECT_LE(mass_of_top_p(1.0 - 0x1p-53, mass), mass);
  }
  EXPECT_EQ(mass_of_top_p(0.5, 1000), 500u);
  EXPECT_EQ(mass_of_top_p(0.5, 1001), 501u);
  EXPECT_EQ(weight_of_min_p(0.0), 1u);
  EXPECT_EQ(weight_of_min_p(1.0), uint64_t{1} << 40);
}

TEST(Sampler, RowsAreForUnchangedLogits) {
  const SamplingParams plain{.temperature = 0.7, .top_k = 9, .top_p = 0.8, .min_p = 0.1, .seed = 3};
  Sampler sampler(plain, 50);
  sampler.accept(4);
  const SampleRow row = sampler.row().value();
  EXPECT_EQ(row.draw, uniform(3, 1));
  EXPECT_EQ(row.top_k, 9);
  SamplingParams changed = plain;
  changed.logit_bias = {{3, 1.0}};
  EXPECT_FALSE(Sampler(changed, 50).row().has_value());
  changed = plain;
  changed.presence_penalty = 0.5;
  EXPECT_FALSE(Sampler(changed, 50).row().has_value());
}

TEST(TokenWeights, NeverRiseWhereLogitsFall) {
  for (const double temperature : {0.01, 0.3, 1.0, 5.0, 1e4})
    for (const float largest : {0.0f, 1e-38f, 1.0f, 12.0f, 1000.0f}) {
      const TokenWeights weight{.largest = largest, .scale = 1.0 / temperature};
      EXPECT_EQ(weight(largest), uint64_t{1} << 40);
      EXPECT_EQ(weight(-kInfinity), 0u);
      uint64_t last = weight(largest);
      float x = largest;
      for (int i = 0; i < 100000; ++i) {  // neighbours, then steps of growing size
        x = i < 50000 ? std::nextafter(x, -kInfinity)
                      : x - static_cast<float>(temperature) * 0.0006f;
        const uint64_t now = weight(x);
        ASSERT_LE(now, last) << x;
        last = now;
      }
      const double distance = 3.0 * temperature;
      const double near = static_cast<double>(weight(static_cast<float>(largest - distance)));
      EXPECT_NEAR(near * 0x1p-40, std::exp(-3.0), 1e-3 / temperature);
    }
}

}  // namespace
}  // namespace sala
