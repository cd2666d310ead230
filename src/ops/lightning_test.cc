#include "ops/testing.h"

namespace sala::test {
namespace {

struct LightningCase {
  std::string name;
  int heads, kv_heads, d, cell;
  std::vector<int64_t> lengths;
  bool norm = true;
  bool gate = true;
  bool aligned = false;  ///< rows and slots begin at multiples of 16 bytes
  bool turn = false;     ///< norm and RoPE of q and k
};

void PrintTo(const LightningCase& c, std::ostream* out) { *out << c.name; }

std::vector<LightningCase> cases() {
  return {{"tiny", 4, 4, 8, 16, {130, 33, 16, 15, 7, 2, 1}},
          {"plain", 4, 4, 8, 16, {100, 17}, false, false},
          {"only_gate", 3, 1, 16, 32, {70, 64}, false, true},
          {"shared_kv", 6, 2, 64, 32, {200, 33, 31}, true, false, false, true},
          {"odd_cell", 2, 1, 24, 20, {101, 40, 39}},
          {"odd_head", 3, 1, 42, 12, {61, 12, 5}, true, true, false, true},
          {"one_head", 1, 1, 128, 64, {330, 64}, true, true, false, true},
          {"many_cells", 2, 1, 8, 2, {150, 30, 1}, true, true, true},
          {"aligned", 2, 1, 40, 16, {140, 17, 16, 3}, true, true, true},
          {"released", 8, 8, 128, 32, {200, 70}, true, true, true, true}};
}

struct LightningInputs {
  Streams q, k, v, gate;
  Streams cos, sin;  ///< of any angles
  Tensor slopes, norm, q_norm, k_norm;
};

LightningInputs inputs_of(Random& random, const LightningCase& c) {
  const int64_t width = static_cast<int64_t>(c.heads) * c.d;
  const int64_t kv_width = static_cast<int64_t>(c.kv_heads) * c.d;
  LightningInputs in{.q = streams(random, c.lengths, width),
                     .k = streams(random, c.lengths, kv_width),
                     .v = streams(random, c.lengths, kv_width),
                     .gate = streams(random, c.lengths, width, 2),
                     .cos = streams(random, c.lengths, c.d / 2),
                     .sin = streams(random, c.lengths, c.d / 2),
                     .slopes = Tensor(DType::f32, {c.heads}),
                     .norm = random.tensor({width}),
                     .q_norm = random.tensor({c.d}),
                     .k_norm = random.tensor({c.d})};
  for (int h = 0; h < c.heads; ++h)
    in.slopes.view().as<float>()[h] =
        static_cast<float>(std::exp2(-8.0 * (h + 1) / static_cast<double>(c.heads)));
  return in;
}

/// The memory of a crowd: its slots are zero, all else is NaN, and slots lie apart.
struct Slots {
  Slots(const LightningCase& c, const Crowd& crowd)
      : state(field(crowd, c.aligned ? 4 : 5, c.heads, c.d, c.d)),
        keys(field(crowd, 5, c.kv_heads, c.d, c.cell)),
        values(field(crowd, c.aligned ? 8 : 5, c.kv_heads, c.cell, c.d)),
        memory{.state = view(state, c.heads, c.d, c.d),
               .keys = view(keys, c.kv_heads, c.d, c.cell),
               .values = view(values, c.kv_heads, c.cell, c.d),
               .cell = c.cell} {}
  static Tensor field(const Crowd& crowd, int64_t gap, int64_t a, int64_t b, int64_t c) {
    Tensor all(DType::f32, {crowd.slot_count(), a * b * c + gap});
    std::fill_n(all.view().as<float>(), all.view().size(), std::nanf(""));
    for (const int32_t slot : crowd.slots())
      std::fill_n(all.view().row<float>(slot), a * b * c, 0.0f);
    return all;
  }
  static Out view(const Tensor& all, int64_t a, int64_t b, int64_t c) {
    Out x = all;
    x.rank = 4;
    x.dim = {all.view().dim[0], a, b, c};
    x.stride = {all.view().stride[0], b * c, c, 1};
    return x;
  }
  /// Whether two crowds remember the same: states, and the tokens since the last edge.
  testing::AssertionResult same(const Slots& other, const LightningCase& c, const Crowd& crowd,
                                const Crowd& others) const {
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      const int32_t slot = crowd.slots()[s];
      const int32_t twin = others.slots()[s];
      const int64_t size = static_cast<int64_t>(c.heads) * c.d * c.d * 4;
      if (std::memcmp(state.view().row<float>(slot), other.state.view().row<float>(twin),
                      static_cast<size_t>(size)) != 0)
        return testing::AssertionFailure() << "the state of sequence " << s << " differs";
      const int64_t rest = c.lengths[s] % c.cell;
      const int64_t rows = static_cast<int64_t>(c.kv_heads) * c.d;
      for (int64_t row = 0; row < rows; ++row)
        if (!std::equal(keys.view().row<float>(slot) + row * c.cell,
                        keys.view().row<float>(slot) + row * c.cell + rest,
                        other.keys.view().row<float>(twin) + row * c.cell))
          return testing::AssertionFailure() << "the keys of sequence " << s << " differ";
      for (int64_t g = 0; g < c.kv_heads; ++g)
        if (!std::equal(values.view().row<float>(slot) + g * c.cell * c.d,
                        values.view().row<float>(slot) + (g * c.cell + rest) * c.d,
                        other.values.view().row<float>(twin) + g * c.cell * c.d))
          return testing::AssertionFailure() << "the values of sequence " << s << " differ";
    }
    return testing::AssertionSuccess();
  }
  Tensor state, keys, values;
  LightningMemory memory;
};

Streams run(Device& device, const LightningCase& c, const LightningInputs& in, const Crowd& crowd,
            const Schedule& schedule, const Slots& slots) {
  Streams o = streams_of(DType::f32, c.lengths, static_cast<int64_t>(c.heads) * c.d);
  LightningForm form{.slopes = in.slopes.view(),
                     .scale = 1 / std::sqrt(static_cast<float>(c.d)),
                     .norm = c.norm ? in.norm.view() : In{},
                     .eps = 1e-6f};
  for (const auto& pieces : schedule) {
    const Step step = crowd.step(pieces);
    const Strided q(gather(in.q, step), 8);
    const Strided k(gather(in.k, step), c.aligned ? 8 : 3);
    const Strided v(gather(in.v, step), c.aligned ? 16 : 5);
    const Strided gate(gather(in.gate, step), 2);
    const Tensor cos = gather(in.cos, step), sin = gather(in.sin, step);
    if (c.turn) {
      form.q_norm = in.q_norm.view();
      form.k_norm = in.k_norm.view();
      form.cos = cos.view();
      form.sin = sin.view();
    }
    const Tensor out(DType::f32, {step.tokens(), q.view.dim[1]});
    Sequences sequences = step.sequences();
    sequences.page_table = {};
    lightning(device, sequences, q.view, k.view, v.view, slots.memory, form,
              c.gate ? gate.view : Out{}, out);
    scatter(out, step, o);
  }
  return o;
}

/// The inputs with q and k normed and turned.
LightningInputs turned(const LightningCase& c, LightningInputs in) {
  const auto reference = open_reference();
  for (size_t s = 0; c.turn && s < c.lengths.size(); ++s) {
    in.q[s] = copy_of(in.q[s]);
    in.k[s] = copy_of(in.k[s]);
    qk_norm_rope(*reference, in.q[s], c.heads, in.q_norm.view(), 1e-6f, in.cos[s].view(),
                 in.sin[s].view());
    qk_norm_rope(*reference, in.k[s], c.kv_heads, in.k_norm.view(), 1e-6f, in.cos[s].view(),
                 in.sin[s].view());
  }
  return in;
}

/// The recurrence S = e^-slope S + k^T v, o = scale q S in double, then norm and gate.
Streams recurrence(const LightningCase& c, const LightningInputs& in) {
  Streams all = streams_of(DType::f32, c.lengths, static_cast<int64_t>(c.heads) * c.d);
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    std::vector<std::vector<double>> states(static_cast<size_t>(c.heads),
                                            std::vector<double>(static_cast<size_t>(c.d * c.d)));
    for (int64_t t = 0; t < c.lengths[s]; ++t) {
      std::vector<double> o;
      for (int h = 0; h < c.heads; ++h) {
        auto& state = states[static_cast<size_t>(h)];
        const int64_t kv = static_cast<int64_t>(h / (c.heads / c.kv_heads)) * c.d;
        const double decay = std::exp(-static_cast<double>(in.slopes.view().as<float>()[h]));
        const float* q = in.q[s].view().row<float>(t) + h * c.d;
        const float* k = in.k[s].view().row<float>(t) + kv;
        const float* v = in.v[s].view().row<float>(t) + kv;
        for (int i = 0; i < c.d; ++i)
          for (int j = 0; j < c.d; ++j)
            state[i * c.d + j] = decay * state[i * c.d + j] + static_cast<double>(k[i]) * v[j];
        for (int j = 0; j < c.d; ++j) {
          double sum = 0;
          for (int i = 0; i < c.d; ++i) sum += q[i] * state[i * c.d + j];
          o.push_back(sum / std::sqrt(c.d));
        }
      }
      const double squares = std::inner_product(o.begin(), o.end(), o.begin(), 0.0);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(o.size()) + 1e-6);
      for (size_t i = 0; i < o.size(); ++i) {
        if (c.norm) o[i] *= inverse * in.norm.view().as<float>()[i];
        if (c.gate) o[i] /= 1 + std::exp(-static_cast<double>(in.gate[s].view().row<float>(t)[i]));
        all[s].view().row<float>(t)[i] = static_cast<float>(o[i]);
      }
    }
  }
  return all;
}

double largest(const Streams& all) {
  double size = 0;
  for (const Tensor& x : all)
    for (int64_t i = 0; i < x.view().size(); ++i)
      size = std::max(size, std::abs(static_cast<double>(x.view().as<float>()[i])));
  return size;
}

class Lightning : public testing::TestWithParam<LightningCase> {};

TEST_P(Lightning, IsTheRecurrence) {
  const LightningCase& c = GetParam();
  Random random(1);
  const LightningInputs in = inputs_of(random, c);
  const Crowd crowd(random, c.lengths, 64);
  const Streams expected = recurrence(c, turned(c, in));
  for (const Target& target : targets()) {
    SCOPED_TRACE(target.name);
    Opened opened(target);
    const Slots slots(c, crowd);
    const Streams o =
        run(opened.device(), c, in, crowd, random_pieces(random, c.lengths, 100), slots);
    EXPECT_TRUE(close(o, expected, 1e-6 * largest(expected)));
  }
}

TEST_P(Lightning, OfATokenDependsOnItsPastAlone) {
  const LightningCase& c = GetParam();
  Random random(2);
  const LightningInputs in = inputs_of(random, c);
  const Crowd crowd(random, c.lengths, 64);
  const Crowd moved(random, c.lengths, 64);
  const std::vector<std::pair<std::string, Schedule>> schedules = {
      {"all at once", all_at_once(c.lengths)},
      {"token by token", token_by_token(c.lengths)},
      {"pieces", random_pieces(random, c.lengths, 20)},
      {"large pieces", random_pieces(random, c.lengths, 200)}};
  for (const cpu::Isa isa : {cpu::Isa::avx512, cpu::Isa::avx2, cpu::Isa::baseline}) {
    Opened alone({"alone", 1, isa});
    const Slots slots(c, crowd);
    const Streams expected = run(alone.device(), c, in, crowd, one_by_one(c.lengths), slots);
    for (const auto& [name, schedule] : schedules)
      for (const int threads : {1, 2, 3}) {
        if (isa != cpu::Isa::avx512 && threads != 3) continue;
        SCOPED_TRACE(fmt::format("isa {}, {} threads, {}", static_cast<int>(isa), threads, name));
        Opened opened({"", threads, isa});
        const Crowd& where = threads == 2 ? moved : crowd;
        const Slots own(c, where);
        const Streams o = run(opened.device(), c, in, where, schedule, own);
        ASSERT_TRUE(same_bits(o, expected));
        ASSERT_TRUE(own.same(slots, c, where, crowd));
      }
  }
}

TEST_P(Lightning, OfATokenOnCudaDependsOnItsPastAlone) {
  LightningCase c = GetParam();
  c.lengths[0] = std::min<int64_t>(c.lengths[0], 150);  // the emulation takes its time
  Random random(4);
  const LightningInputs in = inputs_of(random, c);
  const Crowd crowd(random, c.lengths, 64), moved(random, c.lengths, 64);
  Opened opened(cuda_target());
  const Slots slots(c, crowd);
  const Streams expected = run(opened.device(), c, in, crowd, one_by_one(c.lengths), slots);
  for (const auto& [name, schedule] :
       {std::pair<std::string, Schedule>{"all at once", all_at_once(c.lengths)},
        {"token by token", token_by_token(c.lengths)},
        {"pieces", random_pieces(random, c.lengths, 20)}}) {
    SCOPED_TRACE(name);
    const Slots own(c, moved);
    ASSERT_TRUE(same_bits(run(opened.device(), c, in, moved, schedule, own), expected));
    ASSERT_TRUE(own.same(slots, c, moved, crowd));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Lightning, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// S is folded at the end of the token that fills the cell, so that memory is a function of the
// tokens alone.
TEST(LightningMemory, HoldsTheStateAtTheLastEdge) {
  const LightningCase c{"", 2, 1, 8, 16, {47}};
  Random random(3);
  const LightningInputs in = inputs_of(random, c);
  const Crowd crowd(random, c.lengths, 64);
  std::vector<double> state(64);
  for (int64_t length = 0; length < 47; ++length) {
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 8; ++j)
        state[i * 8 + j] =
            state[i * 8 + j] * std::exp(-static_cast<double>(in.slopes.view().as<float>()[1])) +
            static_cast<double>(in.k[0].view().row<float>(length)[i]) *
                in.v[0].view().row<float>(length)[j];
    if ((length + 1) % 16 != 0) continue;
    for (const Target& target : targets()) {
      Opened opened(target);
      const Slots slots(c, crowd);
      for (const std::vector<Piece>& pieces :
           Schedule{{{0, 0, length - 4}}, {{0, length - 4, 4}}, {{0, length, 1}}})
        run(opened.device(), c, in, crowd, {pieces}, slots);
      const float* found = slots.state.view().row<float>(crowd.slots()[0]) + 64;
      for (int i = 0; i < 64; ++i) EXPECT_NEAR(found[i], state[i], 1e-5) << target.name;
    }
  }
}

}  // namespace
}  // namespace sala::test
