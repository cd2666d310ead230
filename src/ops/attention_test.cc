#include "ops/testing_pages.h"

namespace sala::test {
namespace {

class Attention : public testing::TestWithParam<PagesCase> {};

/// Softmax over the tokens of `blocks` (all where empty) up to p, from the streams themselves; k
/// and v are what is stored of them.
std::vector<double> softmax(const PagesCase& c, const PagesInputs& in, const Streams& k,
                            const Streams& v, int64_t s, int64_t p, int h,
                            const std::vector<int32_t>& blocks) {
  const int64_t first = h / (c.heads / c.kv_heads) * c.head_dim;
  const float* q = in.q[s].view().row<float>(p) + h * c.head_dim;
  std::vector<double> scores;
  for (int64_t u = 0; u <= p; ++u) {
    const bool allowed =
        blocks.empty() || std::ranges::count(blocks, static_cast<int32_t>(u / c.page)) == 1;
    double product = 0;
    for (int i = 0; i < c.head_dim; ++i)
      product += static_cast<double>(q[i]) * k[s].view().row<float>(u)[first + i];
    scores.push_back(allowed ? product / std::sqrt(c.head_dim)
                             : -std::numeric_limits<double>::infinity());
  }
  const double largest = *std::ranges::max_element(scores);
  std::vector<double> o(static_cast<size_t>(c.head_dim));
  double total = 0;
  for (int64_t u = 0; u <= p; ++u) {
    const double weight = std::exp(scores[u] - largest);
    total += weight;
    for (int i = 0; i < c.head_dim; ++i) o[i] += weight * v[s].view().row<float>(u)[first + i];
  }
  for (double& x : o) x /= total;
  return o;
}

TEST_P(Attention, OfTheReferenceIsSoftmaxOverTheAllowedTokens) {
  const PagesCase& c = GetParam();
  Random random(1);
  const PagesInputs in = pages_inputs(random, c);
  const Streams k = stored(c, in.k), v = stored(c, in.v);
  const Crowd crowd(random, c.lengths, c.page);
  const PagesMemory memory(c, crowd);
  const auto reference = open_reference();
  const PagesOutcome out = run(*reference, c, in, crowd, all_at_once(c.lengths), memory);
  // `scale` is rounded to f32, which shows in large scores.
  const double tolerance = c.tolerance(1e-6 * std::max(1.0f, c.size));
  for (size_t s = 0; s < c.lengths.size(); ++s)
    for (int64_t p = 0; p < c.lengths[s]; p += random.between(1, 20)) {
      const int h = random.between(0, c.heads - 1);
      const int g = h / (c.heads / c.kv_heads);
      const int32_t* list = out.lists[s].view().row<int32_t>(p) + g * c.selection.top;
      const int32_t count = out.counts[s].view().row<int32_t>(p)[g];
      const std::vector<int32_t> blocks(list, list + std::max(count, 0));
      const auto dense = softmax(c, in, k, v, s, p, h, {});
      const auto chosen = softmax(c, in, k, v, s, p, h, blocks);
      for (int i = 0; i < c.head_dim; ++i) {
        const int64_t column = h * c.head_dim + i;
        const double gate = in.gate[s].view().row<float>(p)[column];
        ASSERT_NEAR(out.dense[s].view().row<float>(p)[column], dense[i], tolerance);
        ASSERT_NEAR(out.chosen[s].view().row<float>(p)[column], chosen[i] / (1 + std::exp(-gate)),
                    tolerance);
      }
    }
}

TEST_P(Attention, MatchesTheReference) {
  const PagesCase& c = GetParam();
  Random random(2);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const PagesMemory expected_memory(c, crowd);
  const auto reference = open_reference();
  const PagesOutcome expected =
      run(*reference, c, in, crowd, all_at_once(c.lengths), expected_memory);
  // Scores are off by a few roundings of their size, and weights by as much of their own.
  const double tolerance = c.tolerance(16 * kEpsilon * std::sqrt(c.head_dim) * (1 + c.size));
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    complete_ops(opened.device());
    opened.device().ops.block_select = reference_ops().block_select;
    const PagesMemory memory(c, crowd);
    const PagesOutcome out =
        run(opened.device(), c, in, crowd, random_pieces(random, c.lengths, 150), memory);
    EXPECT_TRUE(memory == expected_memory) << "pages or compressed keys differ";
    ASSERT_TRUE(same_bits(out.lists, expected.lists));
    EXPECT_TRUE(close(out.dense, expected.dense, tolerance));
    EXPECT_TRUE(close(out.chosen, expected.chosen, tolerance));
  }
}

// However a sequence is cut into calls, whoever shares them, on any number of threads and at any
// pages.
TEST_P(Attention, OfATokenDependsOnItsPastAlone) {
  const PagesCase& c = GetParam();
  Random random(3);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Crowd moved(random, c.lengths, c.page);
  const std::vector<std::pair<std::string, Schedule>> schedules = {
      {"all at once", all_at_once(c.lengths)},
      {"token by token", token_by_token(c.lengths)},
      {"pieces", random_pieces(random, c.lengths, 40)},
      {"large pieces", random_pieces(random, c.lengths, 200)}};
  for (const cpu::Isa isa : {cpu::Isa::avx512, cpu::Isa::avx2, cpu::Isa::baseline}) {
    Opened alone({"alone", 1, isa});
    const PagesMemory memory(c, crowd);
    const PagesOutcome expected = run(alone.device(), c, in, crowd, one_by_one(c.lengths), memory);
    for (const auto& [name, schedule] : schedules)
      for (const int threads : {1, 2, 3}) {
        if (isa != cpu::Isa::avx512 && threads != 3) continue;
        SCOPED_TRACE(fmt::format("isa {}, {} threads, {}", static_cast<int>(isa), threads, name));
        Opened opened({"", threads, isa});
        const Crowd& where = threads == 2 ? moved : crowd;
        const PagesMemory own(c, where);
        const PagesOutcome out = run(opened.device(), c, in, where, schedule, own);
        EXPECT_TRUE(threads == 2 || own == memory) << "pages or compressed keys differ";
        ASSERT_TRUE(same_bits(out.counts, expected.counts));
        ASSERT_TRUE(same_bits(out.lists, expected.lists));
        ASSERT_TRUE(same_bits(out.dense, expected.dense));
        ASSERT_TRUE(same_bits(out.chosen, expected.chosen));
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Attention, testing::ValuesIn(pages_cases()), name_of_case);

// A list that names every block is dense attention, bit for bit, and so is the count -1.
TEST(AttentionLists, OfAllBlocksAreDense) {
  PagesCase c = pages_cases()[3];
  c.selection.top = 90;
  Random random(4);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    complete_ops(opened.device());
    if (opened.device().ops.block_select == nullptr)
      opened.device().ops.block_select = reference_ops().block_select;
    const PagesMemory memory(c, crowd);
    PagesInputs zero = in;
    zero.gate = streams_of(DType::f32, c.lengths, static_cast<int64_t>(c.heads) * c.head_dim);
    const PagesOutcome out = run(opened.device(), c, zero, crowd, all_at_once(c.lengths), memory);
    for (size_t s = 0; s < c.lengths.size(); ++s)
      for (int64_t i = 0; i < out.dense[s].view().size(); ++i)
        ASSERT_EQ(out.chosen[s].view().as<float>()[i], 0.5f * out.dense[s].view().as<float>()[i]);
  }
}

}  // namespace
}  // namespace sala::test
