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
    if (leave_out(target, c)) continue;
    SCOPED_TRACE(target.name);
    Opened opened(target);
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
  struct Way {
    const char* name;
    Schedule schedule;
    std::vector<int> threads;
  };
  const std::vector<Way> ways = {{"all at once", all_at_once(c.lengths), {2, 3}},
                                 {"token by token", token_by_token(c.lengths), {3}},
                                 {"pieces", random_pieces(random, c.lengths, 40), {1, 2}},
                                 {"large pieces", random_pieces(random, c.lengths, 200), {3}}};
  for (const cpu::Isa isa : {cpu::Isa::avx512, cpu::Isa::avx2, cpu::Isa::baseline}) {
    Opened alone({"alone", 1, isa});
    const PagesMemory memory(c, crowd);
    const PagesOutcome expected = run(alone.device(), c, in, crowd, one_by_one(c.lengths), memory);
    for (const auto& [name, schedule, all_threads] : ways)
      for (const int threads : all_threads) {
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

class AttentionOnCuda : public testing::TestWithParam<PagesCase> {};

// The same of the CUDA kernels, whose way with a step depends on its shape.
TEST_P(AttentionOnCuda, OfATokenDependsOnItsPastAlone) {
  PagesCase c = GetParam();
  for (int64_t& length : c.lengths) length = std::min<int64_t>(length, 330);
  Random random(3);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  std::vector<PagesOutcome> outcomes;
  for (const Schedule& schedule : {all_at_once(c.lengths), random_pieces(random, c.lengths, 100)}) {
    Opened opened(cuda_target());
    const PagesMemory memory(c, crowd);
    outcomes.push_back(run(opened.device(), c, in, crowd, schedule, memory));
  }
  EXPECT_TRUE(same_bits(outcomes[0].counts, outcomes[1].counts));
  EXPECT_TRUE(same_bits(outcomes[0].lists, outcomes[1].lists));
  EXPECT_TRUE(same_bits(outcomes[0].dense, outcomes[1].dense));
  EXPECT_TRUE(same_bits(outcomes[0].chosen, outcomes[1].chosen));
  const auto reference = open_reference();
  const PagesMemory memory(c, crowd);
  const PagesOutcome expected = run(*reference, c, in, crowd, all_at_once(c.lengths), memory);
  const double tolerance = c.tolerance(16 * kEpsilon * std::sqrt(c.head_dim) * (1 + c.size));
  EXPECT_TRUE(close(outcomes[0].dense, expected.dense, tolerance));
}

std::vector<PagesCase> few_cases() {
  std::vector<PagesCase> few;
  for (const PagesCase& c : pages_cases())
    for (const char* name : {"tiny_f32", "page24_int4", "long_int8", "rounded128_bf16",
                             "rounded128_int8", "rounded128_int4", "wide_group"})
      if (c.name == name) few.push_back(c);
  return few;
}
INSTANTIATE_TEST_SUITE_P(Cases, AttentionOnCuda, testing::ValuesIn(few_cases()), name_of_case);

// A list that names every block is dense attention, bit for bit, and so is the count -1.
TEST(AttentionLists, OfAllBlocksAreDense) {
  PagesCase c = pages_cases()[3];
  c.selection.top = 90;
  c.lengths = {600, 40};
  Random random(4);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
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

// int8 and int4 on tensor cores are bf16 pages of the numbers that the codes stand for.
TEST(AttentionOnCudaCodes, AreTheNumbersThatTheyStandForInBf16) {
  for (const KvType type : {KvType::int8, KvType::int4})
    for (const int head_dim : {64, 96, 128}) {
      SCOPED_TRACE(fmt::format("{} heads of {}", name_of(type), head_dim));
      PagesCase c{
          "",        8,         2,    head_dim, 64,           windows(32, 16), windows(128, 64),
          {1, 1, 3}, {140, 33}, type, 1,        Compute::bf16};
      Random random(5);
      PagesInputs in = pages_inputs(random, c);
      const Crowd crowd(random, c.lengths, c.page);
      Opened opened(cuda_target());
      const PagesMemory codes(c, crowd);
      const PagesOutcome out = run(opened.device(), c, in, crowd, all_at_once(c.lengths), codes);
      in.k = stored(c, in.k);
      in.v = stored(c, in.v);
      c.type = KvType::bf16;
      const PagesMemory numbers(c, crowd);
      const PagesOutcome expected =
          run(opened.device(), c, in, crowd, all_at_once(c.lengths), numbers);
      EXPECT_TRUE(same_bits(out.dense, expected.dense));
    }
}

/// The last tokens of long sequences, whose lists name blocks of several segments here and there;
/// pages lie in frames of their own, and those that no list names in none.
struct LongStep {
  LongStep(const PagesCase& shape, int64_t count)
      : c(shape), random(7), in(pages_inputs(random, c)), crowd(random, c.lengths, c.page) {
    const PagesMemory memory(c, crowd);
    const Step all = crowd.step(all_at_once(c.lengths)[0]);
    const auto reference = open_reference();
    kv_append(*reference, all.sequences(), gather(in.k, all), gather(in.v, all), memory.pages);
    std::vector<Piece> pieces;
    for (size_t s = 0; s < c.lengths.size(); ++s)
      pieces.push_back({static_cast<int64_t>(s), c.lengths[s] - count, count});
    step = crowd.step(pieces);
    q = gather(in.q, step);
    gate = gather(in.gate, step);
    choose();
    keep_named_pages(memory);
  }

  void choose() {
    const int64_t T = step.tokens(), top = c.selection.top;
    lists = Tensor(DType::i32, {T, c.kv_heads, top});
    counts = Tensor(DType::i32, {T, c.kv_heads});
    std::fill_n(lists.view().as<int32_t>(), lists.view().size(), -1);
    for (int64_t i = 0; i < T * c.kv_heads; ++i) {
      const int32_t p = step.positions.view().as<int32_t>()[i / c.kv_heads];
      std::vector<int32_t> blocks(static_cast<size_t>(p / c.page));
      std::iota(blocks.begin(), blocks.end(), 0);
      std::erase_if(blocks, [](int32_t block) { return block % 5 == 3; });
      random.shuffle(blocks);
      blocks.resize(static_cast<size_t>(random.between(0, static_cast<int>(top) - 1)));
      blocks.push_back(p / c.page);
      std::ranges::sort(blocks);
      std::ranges::copy(blocks, lists.view().as<int32_t>() + i * top);
      counts.view().as<int32_t>()[i] = static_cast<int32_t>(blocks.size());
    }
  }

  void keep_named_pages(const PagesMemory& memory) {
    const int64_t pool = crowd.pool_pages(), stride = memory.pages.field.stride;
    std::vector<bool> named(static_cast<size_t>(pool));
    const In table = step.page_table;
    for (size_t b = 0; b < c.lengths.size(); ++b)
      for (int64_t i = 0; i <= (c.lengths[b] - 1) / c.page; ++i)
        if (i % 5 != 3 || i >= (c.lengths[b] - step.pieces[b].count) / c.page)
          named[table.row<int32_t>(static_cast<int64_t>(b))[i]] = true;
    frames = Tensor(DType::i32, {pool});
    storage = allocate(pool * stride);
    std::memset(storage.get(), 0xFF, static_cast<size_t>(pool * stride));
    for (int64_t p = 0; p < pool; ++p) {
      const int64_t frame = (p + 3) % pool;
      frames.view().as<int32_t>()[p] = named[p] ? static_cast<int32_t>(frame) : -1;
      if (named[p])
        std::memcpy(storage.get() + frame * stride, memory.pages.field.data + p * stride,
                    static_cast<size_t>(stride));
    }
    pages = memory.pages;
    pages.field.data = storage.get();
    pages.frames = frames;
  }

  /// Tokens [first, first + count) of each sequence's in one step.
  Tensor attend(Device& device, int64_t first, int64_t count) const {
    std::vector<Piece> pieces = step.pieces;
    for (Piece& piece : pieces) piece = {piece.sequence, piece.first + first, count};
    const Step part = crowd.step(pieces);
    const auto pick = [&](const Tensor& x) {
      const In from = x;
      const int64_t width = from.size() / from.dim[0], each = step.pieces[0].count;
      Tensor to(from.dtype, {part.tokens(), width});
      for (int64_t t = 0; t < part.tokens(); ++t)
        std::memcpy(
            static_cast<char*>(const_cast<void*>(to.view().data)) + t * width * size_of(from.dtype),
            bits_of_row(from, t / count * each + first + t % count).data(),
            static_cast<size_t>(width * size_of(from.dtype)));
      return to;
    };
    const Tensor part_lists = pick(lists);
    Tensor o(DType::f32, {part.tokens(), q.view().dim[1]});
    attention(
        device, part.sequences(), pick(q), pages,
        window(part_lists.view().data, DType::i32, {part.tokens(), c.kv_heads, c.selection.top}),
        pick(counts), c.scale(), c.compute, pick(gate), o);
    return o;
  }

  PagesCase c;
  Random random;
  PagesInputs in;
  Crowd crowd;
  Step step;
  Tensor q, gate, lists, counts, frames;
  Storage storage;
  KvPages pages;
};

// Many queries at once, whose pages are shared, and few, whose segments are: the reference's
// result, and the same bits.
TEST(AttentionOnCudaLists, LongAreTheSameAtOnceAndInParts) {
  const auto shape = [](KvType type, int heads, int kv_heads, int head_dim, int top) {
    return PagesCase{"",
                     heads,
                     kv_heads,
                     head_dim,
                     64,
                     windows(32, 16),
                     windows(128, 64),
                     {1, 1, top},
                     {2200, 1250},
                     type,
                     1,
                     Compute::bf16};
  };
  struct Run {
    PagesCase c;
    int64_t tokens;
  };
  using enum KvType;
  for (const auto& [c, tokens] :
       {Run{shape(bf16, 16, 8, 64, 6), 35}, Run{shape(bf16, 8, 8, 96, 3), 35},
        Run{shape(bf16, 32, 2, 128, 12), 3}, Run{shape(int8, 8, 8, 64, 3), 35},
        Run{shape(int4, 8, 8, 96, 3), 35}, Run{shape(int8, 16, 8, 128, 3), 35}}) {
    SCOPED_TRACE(fmt::format("{} heads of {}, {}", c.heads, c.head_dim, name_of(c.type)));
    const LongStep step(c, tokens);
    Opened opened(cuda_target());
    const auto reference = open_reference();
    const Tensor whole = step.attend(opened.device(), 0, tokens);
    const double tolerance = c.tolerance(0);
    for (int64_t first = 0; first < tokens; first += 15) {
      const int64_t count = std::min<int64_t>(5, tokens - first);
      const Tensor part = step.attend(opened.device(), first, count);
      for (int64_t t = 0; t < part.view().dim[0]; ++t)
        ASSERT_EQ(bits_of_row(part.view(), t),
                  bits_of_row(whole.view(), t / count * tokens + first + t % count));
      if (first == 0) {
        EXPECT_TRUE(close(part, step.attend(*reference, first, count), tolerance));
      }
    }
  }
}

}  // namespace
}  // namespace sala::test
