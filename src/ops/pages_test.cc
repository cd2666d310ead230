// Where keys and values lie, and when they are written: frames, and tokens that are replayed.
#include <functional>

#include "ops/testing_pages.h"

namespace sala::test {
namespace {

/// The bytes of a paged field's entry.
std::span<const std::byte> entry(const Paged& field, int64_t p) {
  return {field.data + p * field.stride, static_cast<size_t>(field.stride)};
}

/// Some pages of a field in frames of their own, in any order, exactly as many as there are; all
/// that is not in them is poison.
struct Frames {
  Frames(Random& random, const KvPages& from, int64_t pool_pages, std::vector<int32_t> pages)
      : mapped(std::move(pages)), kv(from), table(DType::i32, {pool_pages}) {
    random.shuffle(mapped);
    const auto count = static_cast<int64_t>(mapped.size());
    storage = allocate(std::max<int64_t>(1, count * from.field.stride));
    kv.field.data = storage.get();
    std::fill_n(table.view().as<int32_t>(), pool_pages, -1);
    for (int64_t i = 0; i < count; ++i) {
      table.view().as<int32_t>()[mapped[static_cast<size_t>(i)]] = static_cast<int32_t>(i);
      std::ranges::copy(entry(from.field, mapped[static_cast<size_t>(i)]),
                        kv.field.data + i * kv.field.stride);
    }
    kv.frames = table.view();
  }
  /// Copies the pages back.
  void store(const KvPages& to) const {
    for (size_t i = 0; i < mapped.size(); ++i)
      std::ranges::copy(entry(kv.field, static_cast<int64_t>(i)), to.frame(mapped[i]));
  }

  std::vector<int32_t> mapped;  ///< the pool page in each frame
  KvPages kv;

 private:
  Tensor table;
  Storage storage;
};

/// The pool pages that hold the tokens of `pieces` and `before` more ahead of each.
std::vector<int32_t> pages_of(const PagesCase& c, const Crowd& crowd,
                              const std::vector<Piece>& pieces, int64_t before) {
  std::vector<int32_t> pages;
  for (const Piece& piece : pieces)
    for (int64_t i = std::max<int64_t>(0, piece.first - before) / c.page;
         i <= (piece.first + piece.count - 1) / c.page; ++i)
      pages.push_back(crowd.pages()[piece.sequence][i]);
  return pages;
}

/// The pool pages that the queries of a step attend to.
std::vector<int32_t> pages_of(const Step& step, const Crowd& crowd, In lists, In counts) {
  std::vector<int32_t> pages;
  int64_t t = 0;
  for (const Piece& piece : step.pieces)
    for (int64_t i = 0; i < piece.count; ++i, ++t)
      for (int64_t g = 0; g < counts.dim[1]; ++g)
        for (int64_t b = 0; b < counts.row<int32_t>(t)[g]; ++b)
          pages.push_back(crowd.pages()[piece.sequence][(lists.as<int32_t>() + t * lists.stride[0] +
                                                         g * lists.stride[1])[b]]);
  std::ranges::sort(pages);
  pages.erase(std::ranges::unique(pages).begin(), pages.end());
  return pages;
}

/// The tensors of a step's tokens.
struct StepInputs {
  StepInputs(const PagesInputs& in, const Step& step)
      : q(gather(in.q, step)), k(gather(in.k, step)), v(gather(in.v, step)) {}
  Tensor q, k, v;
};

class Pages : public testing::TestWithParam<PagesCase> {};

// Each op sees only the pages that it needs, in frames anywhere, and works as if all lay in order.
TEST_P(Pages, LieInAnyFrames) {
  const PagesCase& c = GetParam();
  Random random(1);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  for (const Target& target : targets()) {
    if (leave_out(target, c)) continue;
    SCOPED_TRACE(target.name);
    Opened opened(target);
    Device& device = opened.device();
    const PagesMemory expected(c, crowd), memory(c, crowd);
    // The keys and values of `memory` through frames, as far as `pages` name them.
    const auto with = [&](const std::vector<int32_t>& pages, const auto& op) {
      const Frames frames(random, memory.pages, crowd.pool_pages(), pages);
      op(frames.kv);
      frames.store(memory.pages);
    };
    Schedule schedule = random_pieces(random, c.lengths, 60);
    if (target.name == "cuda_emulated")  // takes its time
      schedule.resize(std::min<size_t>(schedule.size(), 8));
    for (const auto& pieces : schedule) {
      const Step step = crowd.step(pieces);
      const Sequences sequences = step.sequences();
      const StepInputs x(in, step);
      const int64_t T = step.tokens();
      kv_append(device, sequences, x.k, x.v, expected.pages);
      with(pages_of(c, crowd, pieces, 0),
           [&](const KvPages& kv) { kv_append(device, sequences, x.k, x.v, kv); });
      for (const CompressedKeys PagesMemory::* level : {&PagesMemory::fine, &PagesMemory::coarse}) {
        compress_keys(device, sequences, expected.pages, expected.*level);
        with(pages_of(c, crowd, pieces, (expected.*level).size - 1),
             [&](const KvPages& kv) { compress_keys(device, sequences, kv, memory.*level); });
      }
      ASSERT_TRUE(memory == expected) << "pages or compressed keys differ";
      const Tensor flags(DType::u8, {T});
      std::fill_n(flags.view().as<uint8_t>(), T, uint8_t{1});
      const Tensor lists(DType::i32, {T, c.kv_heads, c.selection.top});
      const Tensor counts(DType::i32, {T, c.kv_heads});
      with({}, [&](const KvPages& kv) {
        block_select(device, sequences, x.q, kv, memory.fine, memory.coarse, c.selection, flags,
                     lists, counts);
      });
      const Tensor o(DType::f32, {T, x.q.view().dim[1]}),
          framed(DType::f32, {T, x.q.view().dim[1]});
      attention(device, sequences, x.q, expected.pages, lists, counts, c.scale(), c.compute, {}, o);
      with(pages_of(step, crowd, lists, counts), [&](const KvPages& kv) {
        attention(device, sequences, x.q, kv, lists, counts, c.scale(), c.compute, {}, framed);
      });
      ASSERT_TRUE(same_bits(o.view(), framed.view()));
    }
  }
}

// Every backend stores the same bits, gaps and padding included.
TEST_P(Pages, HoldTheReferencesBits) {
  const PagesCase& c = GetParam();
  Random random(6);
  const PagesInputs in = pages_inputs(random, c);
  // Zeros of both signs are the least of some groups.
  for (const Streams* x : {&in.k, &in.v})
    for (int64_t i = 0; i < (*x)[0].view().size() / 2; ++i) {
      float& value = (*x)[0].view().as<float>()[i];
      if (value < 0) value = random.between(0, 1) == 0 ? 0.0f : -0.0f;
    }
  const Crowd crowd(random, c.lengths, c.page);
  const Schedule schedule = random_pieces(random, c.lengths, 60);
  const auto fill = [&](Device& device, const PagesMemory& memory) {
    for (const auto& pieces : schedule) {
      const Step step = crowd.step(pieces);
      const Strided k(gather(in.k, step), 3), v(gather(in.v, step), 5);
      kv_append(device, step.sequences(), k.view, v.view, memory.pages);
      compress_keys(device, step.sequences(), memory.pages, memory.fine);
      compress_keys(device, step.sequences(), memory.pages, memory.coarse);
    }
  };
  const PagesMemory expected(c, crowd);
  fill(*open_reference(), expected);
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    const PagesMemory memory(c, crowd);
    fill(opened.device(), memory);
    EXPECT_TRUE(memory == expected) << "pages or compressed keys differ";
  }
}

/// The sequences of a step of which `kept` tokens are in the pages already.
struct Replay {
  Replay(const Step& of, const std::vector<int32_t>& kept_of)
      : step(of), kept(integers(kept_of, {static_cast<int64_t>(kept_of.size())})) {}
  Sequences sequences() const {
    Sequences s = step.sequences();
    s.kept = kept.view();
    return s;
  }
  const Step& step;
  Tensor kept;
};

/// All but the last of each sequence's tokens are kept: some of the last page, most windows.
std::vector<int32_t> some_kept(Random& random, const std::vector<Piece>& pieces) {
  std::vector<int32_t> kept;
  for (const Piece& piece : pieces)
    kept.push_back(static_cast<int32_t>(piece.first) +
                   random.between(0, static_cast<int>(piece.count)));
  return kept;
}

// Tokens that are kept may come again as anything in a build without assertions: their bits in the
// pages stay. All others are written, and windows that end at them.
TEST_P(Pages, OfKeptTokensAreNotWritten) {
  if (kAssertions) GTEST_SKIP() << "this build compares kept tokens";
  const PagesCase& c = GetParam();
  Random random(2);
  const PagesInputs in = pages_inputs(random, c), other = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Step step = crowd.step(all_at_once(c.lengths)[0]);
  const Replay replay(step, some_kept(random, step.pieces));
  // What the pages should hold: `in` below the kept position, `other` from there on.
  PagesInputs mixed{.q = {}, .k = {}, .v = {}, .gate = {}, .sparse = {}};
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    mixed.k.push_back(copy_of(other.k[s]));
    mixed.v.push_back(copy_of(other.v[s]));
  }
  for (size_t b = 0; b < step.pieces.size(); ++b)
    for (int64_t t = 0; t < replay.sequences().kept_of(static_cast<int64_t>(b)); ++t)
      for (const auto streams : {&PagesInputs::k, &PagesInputs::v}) {
        const Tensor& to = (mixed.*streams)[step.pieces[b].sequence];
        std::ranges::copy_n((in.*streams)[step.pieces[b].sequence].view().row<float>(t),
                            to.view().dim[1], to.view().row<float>(t));
      }
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    const auto fill = [&](const PagesInputs& with, const Sequences& sequences,
                          const PagesMemory& memory) {
      const Tensor k = gather(with.k, step), v = gather(with.v, step);
      kv_append(opened.device(), sequences, k, v, memory.pages);
      compress_keys(opened.device(), sequences, memory.pages, memory.fine);
      compress_keys(opened.device(), sequences, memory.pages, memory.coarse);
    };
    const PagesMemory memory(c, crowd), expected(c, crowd);
    fill(in, step.sequences(), memory);
    fill(other, replay.sequences(), memory);
    fill(mixed, step.sequences(), expected);
    EXPECT_TRUE(memory == expected) << "pages or compressed keys differ";
  }
}

// The same tokens again write nothing that a comparison could mind.
TEST_P(Pages, OfTheSameTokensStayAsTheyAre) {
  const PagesCase& c = GetParam();
  Random random(3);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Step step = crowd.step(all_at_once(c.lengths)[0]);
  const Replay replay(step, some_kept(random, step.pieces));
  const Tensor k = gather(in.k, step), v = gather(in.v, step);
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    const PagesMemory memory(c, crowd), expected(c, crowd);
    for (const PagesMemory* m : {&expected, &memory}) {
      kv_append(opened.device(), step.sequences(), k, v, m->pages);
      compress_keys(opened.device(), step.sequences(), m->pages, m->fine);
    }
    const Sequences again = replay.sequences();
    kv_append(opened.device(), again, k, v, memory.pages);
    compress_keys(opened.device(), again, memory.pages, memory.fine);
    // Nor is a page looked at that has no frame.
    const Frames none(random, memory.pages, crowd.pool_pages(), {});
    std::vector<int32_t> all;
    for (const Piece& piece : step.pieces) all.push_back(static_cast<int32_t>(piece.count));
    const Replay whole(step, all);
    kv_append(opened.device(), whole.sequences(), k, v, none.kv);
    compress_keys(opened.device(), whole.sequences(), none.kv, memory.fine);
    EXPECT_TRUE(memory == expected) << "pages or compressed keys differ";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Pages, testing::ValuesIn(pages_cases()), name_of_case);

/// A page of one head with one token, and that token as the page gives it back: through attention
/// to that token alone, which is its value.
std::vector<float> round_trip(Device& device, KvType type, const std::vector<float>& x) {
  const auto d = static_cast<int>(x.size());
  const PagesCase c{.name = "",
                    .heads = 1,
                    .kv_heads = 1,
                    .head_dim = d,
                    .page = 16,
                    .fine = windows(8, 4),
                    .coarse = windows(32, 16),
                    .selection = {},
                    .lengths = {1},
                    .type = type};
  Random random(7);
  const Crowd crowd(random, c.lengths, c.page);
  const PagesMemory memory(c, crowd);
  const Step step = crowd.step({{0, 0, 1}});
  const Tensor v(DType::f32, {1, d}), zero(DType::f32, {1, d}), o(DType::f32, {1, d});
  std::ranges::copy(x, v.view().as<float>());
  kv_append(device, step.sequences(), zero, v, memory.pages);
  attention(device, step.sequences(), zero, memory.pages, {}, {}, 1, Compute::f32, {}, o);
  return {o.view().as<float>(), o.view().as<float>() + d};
}

float largest_of(const std::vector<float>& x, size_t first, size_t count) {
  float largest = 0;
  for (size_t i = first; i < std::min(x.size(), first + count); ++i)
    largest = std::max(largest, std::abs(x[i]));
  return largest;
}

// Half a step, and what rounding the scale to f16 adds: of int8 the largest magnitude of the head
// is 127 steps, of int4 the range of a group is 15.
TEST(PagesRoundTrip, IsWithinHalfAStep) {
  Random random(5);
  for (const Target& target : targets()) {
    Opened opened(target);
    for (const KvType type : {KvType::int8, KvType::int4})
      for (const int d : {1, 5, 16, 31, 32, 33, 64, 128, 130})
        for (const float size : {1e-6f, 1e-3f, 1.0f, 300.0f}) {
          SCOPED_TRACE(
              fmt::format("{}, {}, head size {}, {}", target.name, name_of(type), d, size));
          std::vector<float> x(static_cast<size_t>(d));
          for (float& value : x) value = size * (random.normal() + 3);
          x[0] *= 8;
          const std::vector<float> y = round_trip(opened.device(), type, x);
          const size_t group = type == KvType::int8 ? x.size() : 32;
          for (size_t i = 0; i < x.size(); ++i) {
            const float largest = largest_of(x, i / group * group, group);
            const float step = type == KvType::int8 ? largest / 127 : largest * 2 / 15;
            // f16 is exact to 2^-11, and to 2^-25 below 2^-14; a scale counts 127 or 15 times.
            ASSERT_NEAR(x[i], y[i], 0.5f * step + largest * 0x1p-10f + 128 * 0x1p-25f) << i;
          }
        }
  }
}

// Zero, and what all channels share, come back as they were; so do numbers on the grid.
TEST(PagesRoundTrip, KeepsWhatTheGridHolds) {
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    for (const KvType type : kKvTypes) {
      const std::vector<float> zero(64, 0.0f);
      EXPECT_EQ(round_trip(opened.device(), type, zero), zero);
      std::vector<float> whole(64);
      for (size_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<float>(i % 16);
      if (type == KvType::int8) whole[3] = -127;
      EXPECT_EQ(round_trip(opened.device(), type, whole), whole);
    }
    EXPECT_EQ(round_trip(opened.device(), KvType::int4, std::vector<float>(64, 0.5f)),
              std::vector<float>(64, 0.5f));
  }
}

// What has no code spoils its group and no other.
TEST(PagesRoundTrip, OfWhatIsNotFiniteIsNan) {
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    for (const float bad : {std::nanf(""), -std::nanf(""), HUGE_VALF, -HUGE_VALF, 1e30f, -1e30f}) {
      std::vector<float> x(80, 1.0f);
      x[33] = bad;
      for (const KvType type : {KvType::int8, KvType::int4}) {
        const std::vector<float> y = round_trip(opened.device(), type, x);
        for (size_t i = 0; i < y.size(); ++i)
          EXPECT_EQ(std::isnan(y[i]), type == KvType::int8 || i / 32 == 1) << bad << ", " << i;
      }
    }
  }
}

// Channels that lie close together far beyond f16.
TEST(PagesRoundTrip, OfWhatF16CannotReachIsNan) {
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    for (const float bad : {1e30f, -1e30f})
      for (const KvType type : {KvType::int8, KvType::int4})
        for (const float y : round_trip(opened.device(), type, std::vector<float>(32, bad)))
          EXPECT_TRUE(std::isnan(y)) << y;
  }
}

// In a build with assertions a replay that gives other bits ends the program.
TEST(PagesDeathTest, OfOtherTokensEndTheProgram) {
  if (!kAssertions) GTEST_SKIP() << "a build without assertions";
  const PagesCase c = pages_cases()[0];
  Random random(4);
  const PagesInputs in = pages_inputs(random, c);
  const Crowd crowd(random, c.lengths, c.page);
  const Step step = crowd.step({{0, 0, c.lengths[0]}});
  const Replay replay(step, {static_cast<int32_t>(c.lengths[0])});
  const Tensor k = gather(in.k, step), v = gather(in.v, step);
  for (const Target& target : {Target{"cpu", 1}, Target{"reference"}}) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    const PagesMemory memory(c, crowd);
    kv_append(opened.device(), step.sequences(), k, v, memory.pages);
    compress_keys(opened.device(), step.sequences(), memory.pages, memory.fine);
    const Tensor other = copy_of(k);
    other.view().row<float>(77)[3] += 1;
    EXPECT_DEATH(kv_append(opened.device(), replay.sequences(), other, v, memory.pages),
                 "a replayed token gives");
    EXPECT_DEATH(kv_append(opened.device(), replay.sequences(), k, other, memory.pages),
                 "a replayed token gives");
    kv_append(opened.device(), step.sequences(), other, v, memory.pages);
    EXPECT_DEATH(compress_keys(opened.device(), replay.sequences(), memory.pages, memory.fine),
                 "a replayed token gives");
  }
}

}  // namespace
}  // namespace sala::test
