// Whatever happens to a session's files: a byte that is given is right, or there is an Error.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "session/sessions.h"
#include "session/testing.h"

namespace sala {
namespace {

namespace fs = std::filesystem;
using testing::expect_right;
using testing::grow;
using testing::random_tokens;
using testing::Scratch;
using Access = StoredSession::Access;

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

class Damage : public ::testing::Test {
 protected:
  /// A session in two segments; `dead`: with bytes that are no longer in use.
  void make(bool dead) {
    StoredSession first = StoredSession::create(scratch_.dir() / "first", testing::small_begin());
    grow(first, random_tokens(random_, dead ? 18 : 20));
    if (dead) grow(first, random_tokens(random_, 4));
    if (dead) first.roll_back(19);
    first.commit();
    StoredSession::fork(first.dir(), dir_);
    StoredSession session = StoredSession::open(dir_, Access::write);
    grow(session, random_tokens(random_, 22));
    session.commit();
    for (const auto& entry : fs::directory_iterator(dir_))
      if (entry.path().filename() != "lock") files_.push_back(entry.path());
    std::ranges::sort(files_);
    EXPECT_EQ(files_.size(), 1U + 2 * 3 + 2);
  }

  const fs::path& any_file() { return files_[random_() % files_.size()]; }

  /// Whether reading everything ends with an Error; a wrong byte fails the test.
  bool is_refused() {
    try {
      expect_right(StoredSession::open(dir_, Access::read));
      return false;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(dir_.string()), std::string::npos) << e.what();
      return true;
    }
  }

  /// Damages the session in `rounds` ways, one at a time; gives how many were noticed.
  int damage(int rounds, const std::function<std::string(std::string)>& change) {
    int noticed = 0;
    for (int i = 0; i < rounds; ++i) {
      const fs::path& file = any_file();
      const std::string before = contents(file);
      const std::string after = change(before);
      write(file, after);
      const bool refused = is_refused();
      EXPECT_EQ(refused, !verify_session(dir_).empty()) << file;
      EXPECT_EQ(contents(file), after) << "the damaged file was changed";
      if (refused) ++noticed;
      last_ = file;
      write(file, before);
      if (HasFatalFailure()) return noticed;
    }
    EXPECT_FALSE(is_refused());
    return noticed;
  }

  std::string flip(std::string bytes) {
    bytes[random_() % bytes.size()] ^= static_cast<char>(1 << random_() % 8);
    return bytes;
  }
  std::string cut(std::string bytes) {
    bytes.resize(random_() % bytes.size());
    return bytes;
  }

  Scratch scratch_;
  std::mt19937 random_{5};
  fs::path dir_ = scratch_.dir() / "session", last_;
  std::vector<fs::path> files_;
};

TEST_F(Damage, EveryFlippedBitIsNoticed) {
  make(false);
  EXPECT_EQ(damage(1200, [&](std::string bytes) { return flip(std::move(bytes)); }), 1200) << last_;
}

TEST_F(Damage, EveryTruncationIsNoticed) {
  make(false);
  EXPECT_EQ(damage(600, [&](std::string bytes) { return cut(std::move(bytes)); }), 600) << last_;
}

TEST_F(Damage, OnlyBytesOutOfUseMayChange) {
  make(true);
  const int noticed = damage(1000, [&](std::string bytes) { return flip(std::move(bytes)); });
  EXPECT_GT(noticed, 700);
  EXPECT_LT(noticed, 1000);
}

TEST_F(Damage, OverwrittenAndExchangedFilesAreNoticed) {
  make(false);
  damage(100, [&](std::string bytes) { return std::string(bytes.size(), '\0'); });
  for (const char* kind : {"tokens", "index", "kv"}) {
    const fs::path a = dir_ / fmt::format("{}-0", kind), b = dir_ / fmt::format("{}-2", kind);
    const std::string first = contents(a), second = contents(b);
    write(a, second);
    EXPECT_TRUE(is_refused()) << kind;
    write(a, first);
    write(b, first);
    EXPECT_TRUE(is_refused()) << kind;
    write(b, second);
  }
  EXPECT_FALSE(is_refused());
}

TEST_F(Damage, MissingFilesAreNoticed) {
  make(false);
  for (const fs::path& file : files_) {
    const std::string before = contents(file);
    fs::remove(file);
    EXPECT_TRUE(is_refused()) << file;
    fs::create_symlink("/dev/zero", file);
    EXPECT_TRUE(is_refused()) << file;
    fs::remove(file);
    write(file, before);
  }
  EXPECT_FALSE(is_refused());
}

TEST_F(Damage, KeysAndValuesAreNamedByPageAndLayer) {
  make(false);
  std::string bytes = contents(dir_ / "kv-0");
  const SessionLayout layout = testing::small_layout();
  bytes[static_cast<size_t>(3 * layout.kv_bytes() + layout.kv[0] + 5)] ^= 4;  // page 3, layer 2
  write(dir_ / "kv-0", bytes);
  const auto faults = verify_session(dir_);
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults[0].find("kv-0: keys and values of page 3, layer 2 do not fit"),
            std::string::npos)
      << faults[0];
  EXPECT_NE(faults[0].find("roll back to 12 tokens"), std::string::npos) << faults[0];
  // The rest is there: what the advice says works.
  StoredSession session = StoredSession::open(dir_, Access::write);
  std::vector<std::byte> other(static_cast<size_t>(layout.kv[0]));
  session.read_kv(session.record_of(3), 0, other);
  session.roll_back(12);
  session.commit();
  EXPECT_TRUE(verify_session(dir_).empty());
}

}  // namespace
}  // namespace sala
