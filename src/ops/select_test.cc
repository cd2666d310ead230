#include <set>

#include "ops/testing_pages.h"

namespace sala::test {
namespace {

/// Whether `list` is a right answer for the scores: forced blocks, then the best, ties to the
/// lowest index. Blocks whose scores agree within f32 rounding may stand for each other, unless
/// they are equal.
testing::AssertionResult right(const std::vector<int32_t>& list, const std::vector<double>& scores,
                               const Selection& selection, double tolerance) {
  const auto own = static_cast<int32_t>(scores.size()) - 1;
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto rank = [&](int32_t b) {
    const bool forced = b < selection.init_blocks || b >= own - selection.local_blocks;
    return std::pair(forced ? -HUGE_VAL : -scores[b], b);
  };
  std::ranges::sort(order, {}, rank);
  order.resize(std::min<size_t>(order.size(), static_cast<size_t>(selection.top)));
  const std::set<int32_t> expected(order.begin(), order.end());
  if (!std::ranges::is_sorted(list)) return testing::AssertionFailure() << "not ascending";
  if (std::set(list.begin(), list.end()).size() != order.size() || list.size() != order.size())
    return testing::AssertionFailure() << list.size() << " blocks, expected " << order.size();
  const double last = -rank(order.back()).first;
  for (const int32_t b : list) {
    if (b < 0 || b > own) return testing::AssertionFailure() << "block " << b << " of " << own;
    if (expected.contains(b)) continue;
    if (!(scores[b] < last && scores[b] >= last * (1 - tolerance)))
      return testing::AssertionFailure() << fmt::format(
                 "block {} with score {:.9g} is chosen; the last to be chosen is {} with {:.9g}", b,
                 scores[b], order.back(), last);
  }
  return testing::AssertionSuccess();
}

/// Sequences in pages, with all keys and compressed keys in place.
struct Filled {
  Filled(const PagesCase& c, const PagesInputs& inputs, const Crowd& who)
      : crowd(who),
        memory(c, crowd),
        compute(c.compute),
        step(crowd.step(all_at_once(c.lengths)[0])) {
    const auto reference = open_reference();
    const Tensor k = gather(inputs.k, step);
    const Tensor v = gather(inputs.v, step);
    q = gather(inputs.q, step);
    kv_append(*reference, step.sequences(), k, v, memory.pages);
    compress_keys(*reference, step.sequences(), memory.pages, memory.fine);
    compress_keys(*reference, step.sequences(), memory.pages, memory.coarse);
  }
  const Crowd& crowd;
  PagesMemory memory;
  Compute compute;
  Step step;
  Tensor q;
};

struct Chosen {
  Tensor lists, counts;
  std::vector<int32_t> list(int64_t t, int64_t g) const {
    const Out all = lists;
    const int32_t* first = all.as<int32_t>() + t * all.stride[0] + g * all.stride[1];
    return {first, first + std::max(0, counts.view().row<int32_t>(t)[g])};
  }
};

Chosen choose(Device& device, const Filled& filled, Selection selection, uint8_t sparse = 1) {
  selection.compute = filled.compute;
  const int64_t T = filled.step.tokens();
  const int kv_heads = filled.memory.pages.kv_heads;
  Tensor flags(DType::u8, {T});
  std::fill_n(flags.view().as<uint8_t>(), T, sparse);
  Chosen chosen{.lists = Tensor(DType::i32, {T, kv_heads, selection.top}),
                .counts = Tensor(DType::i32, {T, kv_heads})};
  block_select(device, filled.step.sequences(), filled.q, filled.memory.pages, filled.memory.fine,
               filled.memory.coarse, selection, flags, chosen.lists, chosen.counts);
  return chosen;
}

/// Calls check(b, t, p, g) for every query of the step.
template <class Check>
void for_each_query(const Filled& filled, const Check& check) {
  const Sequences sequences = filled.step.sequences();
  for (int64_t b = 0; b < sequences.count(); ++b)
    for (int64_t t = sequences.starts.as<int32_t>()[b]; t < sequences.starts.as<int32_t>()[b + 1];
         ++t)
      for (int g = 0; g < filled.memory.pages.kv_heads; ++g)
        check(b, t, static_cast<int64_t>(sequences.positions.as<int32_t>()[t]), g);
}

std::vector<Selection> selections(const PagesCase& c) {
  return {c.selection,
          {.init_blocks = 0, .local_blocks = 0, .top = 1},
          {.init_blocks = 0, .local_blocks = 0, .top = 7},
          {.init_blocks = 3, .local_blocks = 4, .top = 5},   // more forced than fit
          {.init_blocks = 99, .local_blocks = 0, .top = 4},  // all forced
          {.init_blocks = 1, .local_blocks = 1, .top = 99}};
}

class Select : public testing::TestWithParam<PagesCase> {};

/// The scores of InfLLM-V2 from the streams themselves: windows, masks and pooling written out for
/// every block.
std::vector<double> scores_of_streams(const PagesCase& c, const PagesInputs& in, const Streams& k,
                                      int64_t s, int64_t p, int g) {
  const auto round = [&](float x) {
    return c.type == KvType::f32 ? x : bf16_to_f32(f32_to_bf16(x));
  };
  const auto products = [&](const CompressedKeys& keys, int h) {
    std::vector<double> all;
    for (int64_t first = 0; first + keys.size <= p + 1; first += keys.stride) {
      double product = 0;
      for (int i = 0; i < c.head_dim; ++i) {
        float mean = 0;
        for (int64_t u = first; u < first + keys.size; ++u)
          mean += k[s].view().row<float>(u)[g * c.head_dim + i];
        mean = round(mean * (1.0f / static_cast<float>(keys.size)));
        const float q = in.q[s].view().row<float>(p)[h * c.head_dim + i];
        product +=
            mean * (c.compute == Compute::f32 ? static_cast<double>(q) / std::sqrt(c.head_dim)
                                              : static_cast<double>(round(q * c.scale())));
      }
      all.push_back(product);
    }
    return all;
  };
  std::vector<double> score;
  const int group = c.heads / c.kv_heads;
  for (int h = g * group; h < (g + 1) * group; ++h) {
    const std::vector<double> coarse = products(c.coarse, h);
    const std::vector<double> fine = products(c.fine, h);
    score.resize(fine.size());
    for (size_t j = 0; j < fine.size() && !coarse.empty(); ++j) {
      double inverse = 0;
      for (const double other : coarse) inverse += std::exp(other - fine[j]);
      score[j] += 1 / inverse;
    }
  }
  std::vector<double> blocks;
  const int64_t r = c.page / c.fine.stride;
  for (int64_t b = 0; b <= p / c.page; ++b) {
    blocks.push_back(-HUGE_VAL);
    for (int64_t j = b * r - 1; j < b * r + r; ++j)
      if (j >= 0 && j < static_cast<int64_t>(score.size()))
        blocks.back() = std::max(blocks.back(), score[j]);
  }
  return blocks;
}

TEST_P(Select, ScoresOfTheReferenceAreThoseOfTheFormula) {
  const PagesCase& c = GetParam();
  Random random(1);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Filled filled(c, in, crowd);
  const Streams k = stored(c, in.k);
  for_each_query(filled, [&](int64_t b, int64_t t, int64_t p, int g) {
    if (p % 11 != 0 && (p + 1) % c.page > 1) return;
    const int64_t s = filled.step.pieces[b].sequence;
    const auto expected = scores_of_streams(c, in, k, s, p, g);
    const auto scores =
        reference::block_scores(filled.step.sequences(), filled.q, filled.memory.pages,
                                filled.memory.fine, filled.memory.coarse, b, t, g, c.compute);
    ASSERT_EQ(scores.size(), expected.size());
    for (size_t i = 0; i < scores.size(); ++i)
      if (std::isinf(expected[i])) {
        ASSERT_EQ(scores[i], expected[i]) << "block " << i << " at " << p;
      } else {
        ASSERT_NEAR(scores[i], expected[i], 1e-9 * (1 + expected[i]))
            << "block " << i << " at " << p;
      }
  });
}

TEST_P(Select, ChoosesTheBestBlocks) {
  const PagesCase& c = GetParam();
  Random random(2);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Filled filled(c, in, crowd);
  std::vector<std::vector<double>> scores;
  for_each_query(filled, [&](int64_t b, int64_t t, int64_t, int g) {
    scores.push_back(reference::block_scores(filled.step.sequences(), filled.q, filled.memory.pages,
                                             filled.memory.fine, filled.memory.coarse, b, t, g,
                                             c.compute));
  });
  // exp turns a rounding of a product of this size into as many roundings of the score.
  const double tolerance = 32 * kEpsilon * (1 + c.size * std::sqrt(c.head_dim));
  for (const Target& target : targets()) {
    if (leave_out(target, c)) continue;
    Opened opened(target);
    for (const Selection& selection : selections(c)) {
      SCOPED_TRACE(fmt::format("{}, {} first, {} local, top {}", target.name, selection.init_blocks,
                               selection.local_blocks, selection.top));
      const Chosen chosen = choose(opened.device(), filled, selection);
      size_t query = 0;
      for_each_query(filled, [&](int64_t, int64_t t, int64_t p, int g) {
        ASSERT_TRUE(right(chosen.list(t, g), scores[query++], selection, tolerance))
            << "token " << t << " at " << p << ", kv head " << g;
      });
    }
  }
}

TEST_P(Select, LeavesDenseQueriesAlone) {
  const PagesCase& c = GetParam();
  Random random(3);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Filled filled(c, in, crowd);
  for (const Target& target : targets()) {
    Opened opened(target);
    const Chosen chosen = choose(opened.device(), filled, c.selection, 0);
    for (int64_t i = 0; i < chosen.counts.view().size(); ++i)
      ASSERT_EQ(chosen.counts.view().as<int32_t>()[i], -1) << target.name;
  }
}

// Where all keys are alike every window has the same score: the lowest blocks win.
TEST_P(Select, GivesTiesToTheLowestBlock) {
  const PagesCase& c = GetParam();
  Random random(4);
  PagesInputs in = pages_inputs(random, c);
  for (const Tensor& k : in.k)
    for (int64_t t = 1; t < k.view().dim[0]; ++t)
      std::copy_n(k.view().row<float>(0), k.view().dim[1], k.view().row<float>(t));
  const Crowd crowd(random, c.lengths, c.page);
  const Filled filled(c, in, crowd);
  const Selection selection{.init_blocks = 0, .local_blocks = 1, .top = 4};
  for (const Target& target : targets()) {
    if (leave_out(target, c)) continue;
    Opened opened(target);
    const Chosen chosen = choose(opened.device(), filled, selection);
    for_each_query(filled, [&](int64_t, int64_t t, int64_t p, int g) {
      const auto own = static_cast<int32_t>(p / c.page);
      std::set<int32_t> expected{own, std::max(0, own - 1)};
      for (int32_t b = 0; b <= own && expected.size() < 4; ++b) expected.insert(b);
      ASSERT_EQ(chosen.list(t, g), std::vector(expected.begin(), expected.end()))
          << target.name << " at " << p;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Select, testing::ValuesIn(pages_cases()), name_of_case);

/// What CUDA's kernels choose for the last tokens of long sequences: in a step of `pieces`, right
/// lists; the same ones in a step that has only the last token of each piece.
void check_long(const PagesCase& c, const std::vector<Piece>& pieces) {
  Random random(6);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  Filled filled(c, in, crowd);
  filled.step = crowd.step(pieces);
  filled.q = gather(in.q, filled.step);
  std::vector<std::vector<double>> scores;
  for_each_query(filled, [&](int64_t b, int64_t t, int64_t, int g) {
    scores.push_back(reference::block_scores(filled.step.sequences(), filled.q, filled.memory.pages,
                                             filled.memory.fine, filled.memory.coarse, b, t, g,
                                             c.compute));
  });
  Filled alone(c, in, crowd);
  std::vector<Piece> last = pieces;
  for (Piece& piece : last) piece = {piece.sequence, piece.first + piece.count - 1, 1};
  alone.step = crowd.step(last);
  alone.q = gather(in.q, alone.step);
  const double tolerance = 32 * kEpsilon * (1 + c.size * std::sqrt(c.head_dim));
  Opened opened(cuda_target());
  for (const Selection& selection : {c.selection, Selection{0, 0, 1}, Selection{2, 3, 40}}) {
    const Chosen chosen = choose(opened.device(), filled, selection);
    size_t query = 0;
    for_each_query(filled, [&](int64_t, int64_t t, int64_t p, int g) {
      ASSERT_TRUE(right(chosen.list(t, g), scores[query++], selection, tolerance))
          << "token " << t << " at " << p << ", kv head " << g << ", top " << selection.top;
    });
    const Chosen same = choose(opened.device(), alone, selection);
    const In starts = filled.step.sequences().starts;
    for_each_query(alone, [&](int64_t b, int64_t t, int64_t p, int g) {
      ASSERT_EQ(same.list(t, g), chosen.list(starts.as<int32_t>()[b + 1] - 1, g))
          << "alone at " << p << ", kv head " << g << ", top " << selection.top;
    });
  }
}

// Blocks that fill several tiles: keys of both types, heads of the sizes that tensor cores take and
// of none.
TEST(SelectOnCuda, ChoosesAmongManyBlocks) {
  const auto shape = [](int heads, int kv_heads, int head_dim, KvType type) {
    PagesCase c{"",        heads,           kv_heads, head_dim, 16, windows(8, 4), windows(32, 16),
                {1, 2, 9}, {2300, 890, 31}, type,     2};
    c.compute = type == KvType::f32 ? Compute::f32 : Compute::bf16;
    return c;
  };
  for (const PagesCase& c : {shape(14, 2, 64, KvType::bf16), shape(16, 1, 96, KvType::int8),
                             shape(10, 2, 128, KvType::bf16), shape(20, 1, 40, KvType::bf16),
                             shape(6, 2, 32, KvType::f32)}) {
    SCOPED_TRACE(fmt::format("{} heads of {}", c.heads, c.head_dim));
    check_long(c, {{1, 880, 10}, {0, 2266, 34}, {2, 24, 7}});
  }
}

// More blocks than a block of threads has, more tiles of coarse windows than a warp; queries that
// are many and few for the choice.
TEST(SelectOnCuda, ChoosesAmongVeryManyBlocks) {
  PagesCase c{"", 4, 1, 64, 4, windows(8, 4), windows(2, 1), {1, 2, 9}, {4500}, KvType::bf16, 2};
  c.compute = Compute::bf16;
  check_long(c, {{0, 4430, 70}});
}

/// Numbers in [-2, 2) that any language can make: multiples of 1/64 from a hash of their index.
float hashed(uint32_t seed, int64_t i) {
  uint32_t h = (static_cast<uint32_t>(i) + seed) * 2654435761U;
  h ^= h >> 15;
  h *= 2246822519U;
  h ^= h >> 13;
  return static_cast<float>(static_cast<int>(h & 255) - 128) / 64;
}

// Selections (a hash of their bit masks) and outputs of the numpy reference,
// tests/reference/sala_ref.py: infllm_attention with tiny_config(), policy "sparse", on streams of
// hashed numbers.
TEST(SelectGolden, AgreesWithTheNumpyReference) {
  const PagesCase c{"golden", 4, 2, 8, 16, windows(8, 4), windows(32, 16), {1, 2, 5}, {240}};
  Random random(5);
  PagesInputs in = pages_inputs(random, c);
  for (int64_t i = 0; i < 240 * 32; ++i) in.q[0].view().as<float>()[i] = 2 * hashed(1, i);
  for (int64_t i = 0; i < 240 * 16; ++i) in.k[0].view().as<float>()[i] = hashed(100003, i);
  for (int64_t i = 0; i < 240 * 16; ++i) in.v[0].view().as<float>()[i] = hashed(200003, i);
  std::fill_n(in.gate[0].view().as<float>(), 240 * 32, 100.0f);
  std::fill_n(in.sparse[0].view().as<uint8_t>(), 240, uint8_t{1});
  const Crowd crowd(random, c.lengths, c.page);
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    const PagesMemory memory(c, crowd);
    const PagesOutcome out =
        run(opened.device(), c, in, crowd, random_pieces(random, c.lengths, 60), memory);
    uint32_t hash = 2166136261U;
    for (int64_t i = 0; i < 240 * 2; ++i) {
      uint32_t mask = 0;
      for (int64_t j = 0; j < 5; ++j)
        if (const int32_t b = out.lists[0].view().as<int32_t>()[i * 5 + j]; b >= 0) mask |= 1U << b;
      hash = (hash ^ mask) * 16777619U;
    }
    EXPECT_EQ(hash, 0x99a1b9abU);
    const auto o = [&](int64_t t, int h, int i) {
      return out.chosen[0].view().row<float>(t)[h * 8 + i];
    };
    EXPECT_NEAR(o(100, 0, 0), -0.3624130076356049, 2e-6);
    EXPECT_NEAR(o(150, 1, 3), -0.8944723220599878, 2e-6);
    EXPECT_NEAR(o(200, 2, 5), -0.8332781640702653, 2e-6);
    EXPECT_NEAR(o(239, 3, 7), 0.5952800220362829, 2e-6);
  }
}

}  // namespace
}  // namespace sala::test
