#include "session/stored_session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "session/sessions.h"
#include "session/testing.h"

namespace sala {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_right;
using testing::grow;
using testing::random_tokens;
using testing::Scratch;
using testing::small_begin;
using Access = StoredSession::Access;

class StoredSessions : public ::testing::Test {
 protected:
  StoredSession create(const std::string& name) {
    return StoredSession::create(scratch_.dir() / name, small_begin());
  }
  StoredSession open(const std::string& name, Access access = Access::read) {
    return StoredSession::open(scratch_.dir() / name, access);
  }
  std::vector<int32_t> some(size_t count) { return random_tokens(random_, count); }
  static std::vector<int32_t> copy(std::span<const int32_t> tokens) {
    return {tokens.begin(), tokens.end()};
  }
  size_t files(const std::string& name) {
    return static_cast<size_t>(std::distance(fs::directory_iterator(scratch_.dir() / name), {}));
  }

  Scratch scratch_;
  std::mt19937 random_{1};
};

TEST_F(StoredSessions, HoldsWhatWasCommitted) {
  const std::vector<int32_t> text = some(23);
  {
    StoredSession session = create("a");
    EXPECT_FALSE(StoredSession::exists(session.dir()));
    grow(session, std::span(text).first(9));
    session.commit();
    grow(session, std::span(text).subspan(9));  // page 2 is superseded
    session.commit();
    expect_right(session);
    grow(session, some(5));  // not committed
  }
  const StoredSession session = open("a");
  EXPECT_EQ(copy(session.tokens()), text);
  EXPECT_EQ(session.manifest().model, "models/small");
  EXPECT_EQ(session.manifest().identity.at("kv"), "bf16");
  EXPECT_EQ(session.manifest().layout, testing::small_layout());
  EXPECT_EQ(session.manifest().snapshots.size(), 2U);
  EXPECT_EQ(session.manifest().segments.size(), 1U);
  expect_right(session);
  EXPECT_TRUE(verify_session(session.dir()).empty());
}

TEST_F(StoredSessions, MayBeEmpty) {
  create("a").commit();
  EXPECT_EQ(open("a").tokens().size(), 0U);
  EXPECT_TRUE(verify_session(scratch_.dir() / "a").empty());
}

TEST_F(StoredSessions, RemovesWhatDeadWritersLeft) {
  {
    StoredSession session = create("a");
    grow(session, some(9));
    session.commit();
    grow(session, some(40));
  }
  const size_t left = files("a");
  StoredSession session = open("a", Access::write);
  grow(session, some(3));
  session.commit();
  expect_right(session);
  EXPECT_LE(files("a"), left);
  expect_right(open("a"));
}

TEST_F(StoredSessions, RollsBackAndGoesOnFromThere) {
  for (const int64_t to : {0, 1, 4, 6, 7, 8, 21, 22}) {
    const std::string name = fmt::format("to{}", to);
    const std::vector<int32_t> text = some(22);
    StoredSession session = create(name);
    grow(session, text);
    session.mark_turn();
    session.commit();
    session.roll_back(to);
    session.commit();
    expect_right(open(name));
    EXPECT_EQ(copy(open(name).tokens()), copy(std::span(text).first(static_cast<size_t>(to))));
    grow(session, some(11));
    session.commit();
    expect_right(open(name));
    EXPECT_EQ(open(name).manifest().tokens, to + 11);
    EXPECT_TRUE(verify_session(scratch_.dir() / name).empty());
  }
}

TEST_F(StoredSessions, AReaderKeepsWhatItOpened) {
  StoredSession writer = create("a");
  grow(writer, some(22));
  writer.commit();
  const StoredSession reader = open("a");
  const std::vector<int32_t> text = copy(reader.tokens());
  writer.roll_back(3);
  grow(writer, some(30));
  writer.commit();
  writer.roll_back(0);
  writer.commit();
  grow(writer, some(7));
  writer.commit();
  EXPECT_EQ(copy(reader.tokens()), text);
  expect_right(reader);
  expect_right(open("a"));
}

TEST_F(StoredSessions, HasOneWriterAndManyReaders) {
  StoredSession writer = create("a");
  grow(writer, some(5));
  writer.commit();
  expect_error([&] { open("a", Access::write); }, {"/a: another process is writing"});
  expect_error([&] { StoredSession::remove(scratch_.dir() / "a"); }, {"another process"});
  expect_right(open("a"));
  expect_right(open("a"));
  {
    const StoredSession gone = std::move(writer);
  }
  expect_right(open("a", Access::write));
}

TEST_F(StoredSessions, ForksShareFilesAndGoTheirOwnWays) {
  StoredSession a = create("a");
  grow(a, some(22));
  a.commit();
  const std::vector<int32_t> text = copy(a.tokens());
  const StoredSession same = StoredSession::fork(scratch_.dir() / "a", scratch_.dir() / "b");
  EXPECT_EQ(copy(same.tokens()), text);
  EXPECT_EQ(fs::hard_link_count(scratch_.dir() / "a" / "kv-0"), 2U);
  expect_error([&] { StoredSession::fork(scratch_.dir() / "a", scratch_.dir() / "b"); },
               {"/b: there is a session of this name"});
  grow(a, some(9));
  a.commit();
  {
    StoredSession b = open("b", Access::write);
    b.roll_back(13);
    grow(b, some(20));
    b.commit();
    expect_right(b);
  }
  expect_right(open("a"));
  EXPECT_EQ(copy(open("a").tokens().first(22)), text);
  expect_right(open("b"));
  StoredSession::fork(scratch_.dir() / "b", scratch_.dir() / "c");
  StoredSession::remove(scratch_.dir() / "b");
  EXPECT_FALSE(fs::exists(scratch_.dir() / "b"));
  expect_right(open("a"));
  expect_right(open("c"));
  EXPECT_TRUE(verify_session(scratch_.dir() / "c").empty());
}

TEST_F(StoredSessions, RandomOperationsLoseNothing) {
  std::map<std::string, std::vector<int32_t>> right;  // what each session must hold
  std::optional<StoredSession> session;
  std::string name;
  const auto begin = [&](const std::string& of) {
    session.reset();
    session.emplace(right.contains(of) ? open(of, Access::write) : create(of));
    name = of;
    if (!right.contains(of)) session->commit();
    right[of] = copy(session->tokens());
  };
  begin("s0");
  for (int step = 0; step < 1500; ++step) {
    const auto dice = random_() % 20;
    const std::string other = fmt::format("s{}", random_() % 5);
    if (dice < 8) {
      grow(*session, some(random_() % 12));
    } else if (dice < 11) {
      session->roll_back(static_cast<int64_t>(random_() % (session->tokens().size() + 1)));
    } else if (dice < 15) {
      session->commit();
      right[name] = copy(session->tokens());
    } else if (dice < 16 && !session->manifest().snapshots.empty()) {
      session->drop_snapshot(session->manifest().snapshots.front().position);
    } else if (dice < 18) {
      begin(other);  // what was not committed is lost
    } else if (dice < 19 && other != name) {
      if (right.erase(other) > 0) StoredSession::remove(scratch_.dir() / other);
      StoredSession::fork(scratch_.dir() / name, scratch_.dir() / other);
      right[other] = right[name];
    } else if (other != name && right.erase(other) > 0) {
      StoredSession::remove(scratch_.dir() / other);
    }
    ASSERT_NO_FATAL_FAILURE(expect_right(*session)) << step;
    ASSERT_EQ(copy(open(name).tokens()), right[name]) << step;
    if (step % 50 == 0)
      for (const auto& [which, text] : right) {
        ASSERT_EQ(copy(open(which).tokens()), text) << step << " " << which;
        ASSERT_NO_FATAL_FAILURE(expect_right(open(which))) << step << " " << which;
      }
  }
  std::vector<std::string> names;
  for (const auto& [which, text] : right) names.push_back(which);
  EXPECT_EQ(session_names(scratch_.dir()), names);
}

TEST_F(StoredSessions, RemoveLeavesFilesOfOthers) {
  create("a").commit();
  scratch_.write("a/notes-1", "mine");
  expect_error([&] { StoredSession::remove(scratch_.dir() / "a"); },
               {"/a: the session is gone, but the directory cannot be removed"});
  EXPECT_TRUE(fs::exists(scratch_.dir() / "a/notes-1"));
  EXPECT_FALSE(StoredSession::exists(scratch_.dir() / "a"));
  expect_error([&] { open("a"); }, {"/a: not a session"});
  expect_error([&] { open("none"); }, {"/none: not a session"});
}

TEST_F(StoredSessions, WhatWasNeverCommittedLeavesNoTrace) {
  {
    StoredSession session = create("a");
    grow(session, some(9));
    StoredSession moved = std::move(session);
    EXPECT_TRUE(fs::exists(scratch_.dir() / "a/kv-0"));
  }
  EXPECT_FALSE(fs::exists(scratch_.dir() / "a"));
  {
    StoredSession session = create("a");
    scratch_.write("a/notes-1", "mine");
    grow(session, some(9));
  }
  EXPECT_EQ(files("a"), 1U);
  expect_error([&] { open("a"); }, {"/a: not a session: there is no manifest.json"});
  expect_error([&] { StoredSession::remove(scratch_.dir() / "a"); }, {"/a: not a session"});
}

TEST_F(StoredSessions, WhatADeadFirstWriterLeftCanBeRemoved) {
  fs::create_directory(scratch_.dir() / "a");
  for (const char* name : {"lock", "tokens-0", "kv-0", "index-0", "state-1", "manifest.json.new"})
    scratch_.write(fmt::format("a/{}", name), "x");
  EXPECT_TRUE(session_names(scratch_.dir()).empty());
  expect_error([&] { open("a"); }, {"/a: not a session: its writer died"});
  {
    const File writer = File::try_lock(scratch_.dir() / "a/lock");
    expect_error([&] { StoredSession::remove(scratch_.dir() / "a"); }, {"another process"});
  }
  StoredSession::remove(scratch_.dir() / "a");
  EXPECT_FALSE(fs::exists(scratch_.dir() / "a"));
}

TEST_F(StoredSessions, NumericsAreKeptByPosition) {
  StoredSession session = create("a");
  grow(session, some(10));
  session.set_numerics({{"isa", "avx512"}});
  EXPECT_EQ(session.manifest().origins.size(), 1U);
  session.set_numerics({{"isa", "avx2"}});
  grow(session, some(4));
  session.commit();
  const auto differences = numeric_differences(open("a").manifest(), {{"isa", "avx2"}});
  ASSERT_EQ(differences.size(), 1U);
  EXPECT_EQ(differences[0], "isa: avx512 in the session from token 0 on, avx2 here");
  session.roll_back(10);
  EXPECT_TRUE(numeric_differences(session.manifest(), {{"isa", "avx512"}}).empty());
  session.roll_back(0);
  session.set_numerics({{"isa", "avx2"}});
  EXPECT_TRUE(numeric_differences(session.manifest(), {{"isa", "avx2"}}).empty());
}

TEST(Sessions, IdentityNamesTheFactAndBothValues) {
  const Facts kept = {{"config", "1f"}, {"kv", "bf16"}};
  require_identity("book", kept, kept);
  expect_error([&] { require_identity("book", kept, {{"config", "1f"}, {"kv", "f32"}}); },
               {"session book: kv is bf16 in the session and f32 here"});
  expect_error([&] { require_identity("book", kept, {{"kv", "bf16"}}); },
               {"config is 1f in the session and not given here"});
}

TEST(Sessions, NamesAreBounded) {
  const Scratch scratch;
  for (const char* name : {"a", "Book-1.txt", "..a", "_", ".hidden"})
    EXPECT_EQ(session_directory(scratch.dir(), name), scratch.dir() / name);
  EXPECT_EQ(session_directory(scratch.dir(), std::string(64, 'x')).filename(),
            std::string(64, 'x'));
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string("a b"),
        std::string("é"), std::string("a\0b", 3), std::string(65, 'x')})
    expect_error([&] { session_directory(scratch.dir(), name); }, {"a session's name is 1 to 64"});
  EXPECT_TRUE(session_names(scratch.dir() / "none").empty());
}

}  // namespace
}  // namespace sala
