// A session gives the bits of a run that was never interrupted: saved, restarted and restored,
// forked, rolled back, and when its keys and values do not fit in memory. What is damaged is
// refused before it is used.
#include "engine/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <map>
#include <random>

#include "base/testing.h"
#include "engine/testing.h"
#include "session/sessions.h"

namespace sala {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::RandomWeights;
using testing::Scratch;
using Access = Session::Access;
using Bits = std::vector<uint32_t>;
using Text = std::vector<int>;

Bits bits_of(In logits) {
  Bits bits(static_cast<size_t>(logits.size()));
  std::transform(logits.as<float>(), logits.as<float>() + logits.size(), bits.begin(),
                 [](float x) { return std::bit_cast<uint32_t>(x); });
  return bits;
}

struct Case {
  const char* name;
  StoredType weights;
  ComputeMode compute;
  KvType kv;
  bool hybrid = true;   ///< else attention in every layer, which has no states
  bool spills = false;  ///< keys and values do not fit in memory
};

class Sessions : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kLongest = 400;

  Sessions()
      : config_(config(GetParam().hybrid)),
        weights_(config_, GetParam().weights, 5),
        files_{.path = "tiny", .config = config_, .weights = weights_.source()} {
    WeightSource source = weights_.source();
    model_ = std::make_unique<Model>(config_, source);
    device_ = open_device(options());
  }

  static ModelConfig config(bool hybrid) {
    ModelConfig c = testing::tiny_sala();
    if (!hybrid)
      for (MixerKind& kind : c.mixers) kind = MixerKind::attention;
    return c;
  }

  RunOptions options() const {
    RunOptions o;
    o.threads = 1;
    o.compute = GetParam().compute;
    o.kv = GetParam().kv;
    o.chunk = 48;
    o.context = kLongest;
    const int64_t page_kv = memory_of(cache_specs(config_, o.kv), config_.page(), 1).kv;
    if (GetParam().spills) o.kv_memory = 22 * page_kv;
    o.cache_disk = int64_t{1} << 24;
    make_room_for_snapshots(config_, o);
    return o;
  }

  SessionFacts facts() const { return session_facts(files_, *model_, *device_, options()); }
  fs::path dir(const std::string& name) const { return scratch_.dir() / name; }
  Session open(const std::string& name, Access access = Access::write) const {
    return Session::open(dir(name), access, facts(), false);
  }

  /// The logits after `text`, from a run that knows nothing before.
  const Bits& truth(const Text& text) {
    Bits& known = truth_[text];
    if (known.empty()) {
      RunOptions o = options();
      o.kv_memory = -1;
      Runner cold(*model_, *device_, o);
      Hold hold = cold.open();
      known = read(cold, hold, text);
    }
    return known;
  }

  static Bits read(Runner& runner, Hold& hold, const Text& text) {
    Bits got;
    runner.read(hold, text, {.wanted = 1, .on_logits = [&](In l) { got = bits_of(l); }});
    return got;
  }

  Text some(size_t count) {
    Text text(count);
    for (int& token : text) token = static_cast<int>(random_() % 61);
    return text;
  }
  static Text copy(std::span<const int32_t> tokens) { return {tokens.begin(), tokens.end()}; }

  /// A new process: restores a session, reads `more`, compares, saves it if wanted.
  void go_on(const std::string& name, const Text& more, bool save) {
    Session session = open(name);
    Runner runner(*model_, *device_, options());
    Hold hold = session.restore(runner, std::ssize(session.tokens()));
    Text text = copy(session.tokens());
    ASSERT_EQ(hold.kept(), std::ssize(text));
    ASSERT_LT(hold.kept() - hold.length(), 2 * 32 + kLongest / 2);
    text.insert(text.end(), more.begin(), more.end());
    ASSERT_EQ(read(runner, hold, text), truth(text)) << name << ", " << text.size() << " tokens";
    if (!save) return;
    session.save(runner, hold, text);
    ASSERT_EQ(copy(session.tokens()), text);
  }

  Scratch scratch_;
  std::mt19937 random_{7};
  ModelConfig config_;
  RandomWeights weights_;
  ModelFiles files_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Device> device_;
  std::map<Text, Bits> truth_;
};

TEST_P(Sessions, SavedRestartedAndRestoredEqualsCold) {
  {
    Session session = Session::create(dir("a"), "tiny", facts());
    Runner runner(*model_, *device_, options());
    Hold hold = runner.open();
    Text text;
    for (const size_t count : {1, 30, 33, 64, 7}) {
      for (const int token : some(count)) text.push_back(token);
      ASSERT_EQ(read(runner, hold, text), truth(text));
      session.save(runner, hold, text);
    }
  }
  for (const size_t count : {1, 3, 60, 2, 5}) go_on("a", some(count), count != 60);
  EXPECT_TRUE(verify_session(dir("a")).empty());
  EXPECT_EQ(open("a").manifest().model, "tiny");
}

TEST_P(Sessions, RandomForksAndRollBacksEqualCold) {
  Session::create(dir("s0"), "tiny", facts()).roll_back(0);
  go_on("s0", some(200), true);
  std::vector<std::string> names = {"s0"};
  for (int step = 0; step < 40 && !HasFatalFailure(); ++step) {
    const std::string name = names[random_() % names.size()];
    const int64_t length = open(name).manifest().tokens;
    const auto dice = random_() % 4;
    if (dice == 0 && names.size() < 5) {
      names.push_back(fmt::format("s{}", step + 1));
      StoredSession::fork(dir(name), dir(names.back()));
    } else if (dice == 1 || length > kLongest - 60) {
      open(name).roll_back(static_cast<int64_t>(random_() % static_cast<uint64_t>(length + 1)));
    }
    go_on(name, some(1 + random_() % 50), random_() % 2 == 0);
    if (step % 10 == 9) {
      StoredSession::remove(dir(names.front()));
      names.erase(names.begin());
      if (names.empty()) break;
    }
  }
  for (const std::string& name : names) EXPECT_TRUE(verify_session(dir(name)).empty()) << name;
}

TEST_P(Sessions, ATextThatPartsFromTheSavedOneReplacesIt) {
  Session session = Session::create(dir("a"), "tiny", facts());
  Runner runner(*model_, *device_, options());
  Hold hold = runner.open();
  Text text = some(150);
  read(runner, hold, text);
  session.save(runner, hold, text);
  for (const int64_t at : {149, 140, 100, 33}) {
    runner.cache().roll_back(hold, at);
    text.resize(static_cast<size_t>(at));
    for (const int token : some(20)) text.push_back(token);
    ASSERT_EQ(read(runner, hold, text), truth(text));
    session.save(runner, hold, text, 0);
    ASSERT_EQ(copy(session.tokens()), text);
    EXPECT_GE(session.manifest().turns.back(), at);
  }
  const Session reader = open("a", Access::read);  // beside the writer
  EXPECT_EQ(copy(reader.tokens()), text);
}

TEST_P(Sessions, SnapshotsStayFew) {
  {
    Session session = Session::create(dir("a"), "tiny", facts());
    Runner runner(*model_, *device_, options());
    Hold hold = runner.open();
    Text text;
    for (int i = 0; i < 12; ++i) {
      for (const int token : some(32)) text.push_back(token);
      read(runner, hold, text);
      session.save(runner, hold, text);
    }
  }
  const Manifest m = open("a").manifest();
  if (!GetParam().hybrid) {
    EXPECT_TRUE(m.snapshots.empty());
    return;
  }
  EXPECT_LE(m.snapshots.size(), 8U);
  EXPECT_EQ(m.snapshots.back().position, 384);
  EXPECT_EQ(static_cast<size_t>(std::ranges::count_if(
                fs::directory_iterator(dir("a")),
                [](const auto& e) { return e.path().filename().string().starts_with("state-"); })),
            m.snapshots.size());
}

TEST_P(Sessions, DamageIsRefusedBeforeItIsUsed) {
  Session::create(dir("a"), "tiny", facts()).roll_back(0);
  go_on("a", some(230), true);
  const int64_t size = static_cast<int64_t>(fs::file_size(dir("a") / "kv-0"));
  for (int round = 0; round < 20; ++round) {
    std::fstream file(dir("a") / "kv-0", std::ios::binary | std::ios::in | std::ios::out);
    const auto at = static_cast<std::streamoff>(random_() % static_cast<uint64_t>(size));
    file.seekg(at);
    const char byte = static_cast<char>(file.get());
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 8));
    file.flush();
    EXPECT_EQ(verify_session(dir("a")).size(), 1U);
    // A step that does not choose the page is right; one that does is refused.
    Session session = open("a", Access::read);
    Runner runner(*model_, *device_, options());
    Hold hold = session.restore(runner, std::ssize(session.tokens()));
    Text text = copy(session.tokens());
    text.push_back(5);
    try {
      EXPECT_EQ(read(runner, hold, text), truth(text));
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("kv-0: keys and values of page"), std::string::npos);
    }
    file.seekp(at);
    file.put(byte);
  }
  go_on("a", some(3), false);
}

TEST_P(Sessions, OtherModelsAndOptionsAreRefused) {
  Session::create(dir("a"), "tiny", facts()).roll_back(0);
  go_on("a", some(70), true);
  const auto refuse = [&](const SessionFacts& here, std::initializer_list<std::string_view> parts) {
    expect_error([&] { Session::open(dir("a"), Access::read, here, true); }, parts);
  };
  RunOptions o = options();
  o.sparse = SparsePolicy::dense;
  refuse(session_facts(files_, *model_, *device_, o), {"session a: sparse is always", "dense"});
  o = options();
  o.kv = o.kv == KvType::f32 ? KvType::bf16 : KvType::f32;
  refuse(session_facts(files_, *model_, *device_, o), {"session a: kv is"});
  o.sparse = SparsePolicy::hf;
  expect_error([&] { session_facts(files_, *model_, *device_, o); }, {"--sparse hf"});

  // Other numbers: refused, or loaded and told.
  SessionFacts here = facts();
  const RandomWeights others(config_, GetParam().weights, 6);
  here.numerics = session_facts({.path = "other", .config = config_, .weights = others.source()},
                                *model_, *device_, options())
                      .numerics;
  expect_error([&] { Session::open(dir("a"), Access::read, here, false); },
               {"session a was computed otherwise", "weights: ", "--inexact"});
  {
    Session session = Session::open(dir("a"), Access::write, here, true);
    EXPECT_EQ(session.differences().size(), 1U);
    Runner runner(*model_, *device_, options());
    Hold hold = session.restore(runner, std::ssize(session.tokens()));
    Text text = copy(session.tokens());
    text.push_back(1);
    read(runner, hold, text);
    session.save(runner, hold, text);
  }
  // From now on it is mixed, and exact for nobody, until that part is gone.
  expect_error([&] { open("a"); }, {"from token 70 on"});
  expect_error([&] { Session::open(dir("a"), Access::read, here, false); }, {"from token 0 on"});
  Session::open(dir("a"), Access::write, here, true).roll_back(70);
  go_on("a", some(3), false);
}

std::vector<Case> cases() {
  return {{"f32_f32", StoredType::f32, ComputeMode::f32, KvType::f32},
          {"bf16_bf16", StoredType::bf16, ComputeMode::automatic, KvType::bf16},
          {"int8_bf16", StoredType::q8_0, ComputeMode::int8, KvType::bf16},
          {"f32_int8", StoredType::f32, ComputeMode::f32, KvType::int8},
          {"attention_f32", StoredType::f32, ComputeMode::f32, KvType::f32, false},
          {"f32_f32_spills", StoredType::f32, ComputeMode::f32, KvType::f32, true, true},
          {"bf16_bf16_spills", StoredType::bf16, ComputeMode::automatic, KvType::bf16, true, true}};
}

INSTANTIATE_TEST_SUITE_P(Modes, Sessions, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace sala
