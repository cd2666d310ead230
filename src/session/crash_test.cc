// A session survives the death of its writer at any moment, a power cut, and a full disk. The
// linker gives this program the calls by which files change (CMakeLists.txt, --wrap).
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <fstream>
#include <map>
#include <thread>

#include "session/sessions.h"
#include "session/testing.h"
#include "session/testing_disk.h"

namespace sala {
namespace {

namespace fs = std::filesystem;
using testing::Change;
using testing::Disk;
using testing::expect_error;
using testing::expect_right;
using testing::grow;
using testing::random_tokens;
using testing::Scratch;
using Access = StoredSession::Access;

struct {
  bool recording = false;
  std::vector<Change> changes;
  int64_t calls_until_full = INT64_MAX;  ///< then every write fails with ENOSPC
  bool has_links = true, syncs = true;
} calls;

std::string path_of(int fd) {
  char name[PATH_MAX];
  const ssize_t size = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), name, sizeof name);
  return {name, static_cast<size_t>(size)};
}

void record(Change change) {
  if (calls.recording) calls.changes.push_back(std::move(change));
}

bool is_full() { return --calls.calls_until_full < 0; }

int no_space() {
  errno = ENOSPC;
  return -1;
}

}  // namespace
}  // namespace sala

using sala::calls;
using sala::record;
using Kind = sala::testing::Change::Kind;

extern "C" {
ssize_t __real_pwrite(int fd, const void* data, size_t size, off_t offset);
int __real_fsync(int fd);
int __real_ftruncate(int fd, off_t size);
int __real_rename(const char* from, const char* to);
int __real_unlink(const char* path);
int __real_link(const char* from, const char* to);

ssize_t __wrap_pwrite(int fd, const void* data, size_t size, off_t offset) {
  if (sala::is_full()) {
    // What a full disk does: a part, then nothing.
    if (size > 1 && calls.calls_until_full == -1) return __real_pwrite(fd, data, size / 2, offset);
    return sala::no_space();
  }
  record({Kind::write, sala::path_of(fd), {}, offset, {static_cast<const char*>(data), size}});
  return __real_pwrite(fd, data, size, offset);
}
int __wrap_fsync(int fd) {
  if (sala::is_full()) return sala::no_space();
  record({Kind::sync, sala::path_of(fd), {}, 0, {}});
  return calls.syncs ? __real_fsync(fd) : 0;
}
int __wrap_ftruncate(int fd, off_t size) {
  record({Kind::truncate, sala::path_of(fd), {}, size, {}});
  return __real_ftruncate(fd, size);
}
int __wrap_rename(const char* from, const char* to) {
  if (sala::is_full()) return sala::no_space();
  record({Kind::rename, from, to, 0, {}});
  return __real_rename(from, to);
}
int __wrap_unlink(const char* path) {
  if (::access(path, F_OK) == 0) record({Kind::unlink, path, {}, 0, {}});
  return __real_unlink(path);
}
int __wrap_link(const char* from, const char* to) {
  if (!calls.has_links) {
    errno = EPERM;
    return -1;
  }
  record({Kind::link, from, to, 0, {}});
  return __real_link(from, to);
}
}

namespace sala {
namespace {

class Crash : public ::testing::Test {
 protected:
  ~Crash() override { calls = {}; }

  /// Makes `files` the session "found", and expects in it one of two texts, nothing before the
  /// first commit.
  void expect_one_of(const std::map<std::string, std::string>& files,
                     const std::vector<int32_t>* before, const std::vector<int32_t>& after,
                     const std::string& what) {
    const fs::path dir = scratch_.dir() / "found";
    fs::remove_all(dir);
    fs::create_directory(dir);
    for (const auto& [path, bytes] : files)
      std::ofstream(dir / fs::path(path).filename(), std::ios::binary) << bytes;
    if (!StoredSession::exists(dir)) {
      ASSERT_EQ(before, nullptr) << what;
      return;
    }
    try {
      StoredSession session = StoredSession::open(dir, Access::write);
      ASSERT_NO_FATAL_FAILURE(expect_right(session)) << what;
      const std::vector<int32_t> text(session.tokens().begin(), session.tokens().end());
      ASSERT_TRUE(text == after || (before != nullptr && text == *before)) << what;
      grow(session, random_tokens(random_, 5));
      session.commit();
      ASSERT_NO_FATAL_FAILURE(expect_right(session)) << what;
    } catch (const Error& e) {
      FAIL() << what << ": " << e.what();
    }
  }

  Scratch scratch_;
  std::mt19937 random_{3};
};

TEST_F(Crash, EveryPrefixOfTheWritesIsACommit) {
  calls.syncs = false;
  const fs::path dir = scratch_.dir() / "written";
  std::vector<std::vector<int32_t>> texts;  // of the commits
  std::vector<size_t> done;                 // how many changes each had made when it returned
  {
    calls.recording = true;
    StoredSession session = StoredSession::create(dir, testing::small_begin());
    for (int commit = 0; commit < 9; ++commit) {
      if (commit % 5 == 3) session.roll_back(std::ssize(session.tokens()) * 2 / 3);
      if (commit % 4 == 2) session.drop_snapshot(session.manifest().snapshots.front().position);
      for (int i = 0; i < 2; ++i) grow(session, random_tokens(random_, random_() % 9));
      session.commit();
      texts.emplace_back(session.tokens().begin(), session.tokens().end());
      done.push_back(calls.changes.size());
    }
    calls.recording = false;
  }
  const std::vector<Change> changes = std::move(calls.changes);
  ASSERT_GT(changes.size(), 100U);
  Disk disk(dir.string());
  size_t commit = 0;
  for (size_t i = 0; i < changes.size() && !HasFatalFailure(); ++i) {
    const auto* before = commit == 0 ? nullptr : &texts[commit - 1];
    const std::string what = fmt::format("change {} of {}: {}", i, changes.size(), changes[i].path);
    if (changes[i].kind == Change::Kind::write && changes[i].bytes.size() > 1) {
      Disk torn = disk;
      Change half = changes[i];
      half.bytes.resize(random_() % half.bytes.size());
      torn.apply(half);
      expect_one_of(torn.after_death(), before, texts[commit], what + ", torn");
    }
    disk.apply(changes[i]);
    if (i + 1 == done[commit]) before = &texts[commit];
    expect_one_of(disk.after_death(), before, texts[commit], what + ", died after it");
    for (int round = 0; round < 3 && !HasFatalFailure(); ++round)
      expect_one_of(disk.after_power_cut(random_), before, texts[commit], what + ", power cut");
    if (i + 1 == done[commit]) ++commit;
  }
}

TEST_F(Crash, AFullDiskLeavesTheLastCommit) {
  const fs::path dir = scratch_.dir() / "full";
  std::vector<int32_t> text;
  {
    StoredSession session = StoredSession::create(dir, testing::small_begin());
    grow(session, random_tokens(random_, 21));
    session.commit();
    text.assign(session.tokens().begin(), session.tokens().end());
  }
  int failures = 0;
  for (int64_t writes = 0;; ++writes) {
    try {
      StoredSession session = StoredSession::open(dir, Access::write);
      calls.calls_until_full = writes;
      grow(session, random_tokens(random_, 9));
      session.commit();
      calls.calls_until_full = INT64_MAX;
      break;
    } catch (const Error& e) {
      calls.calls_until_full = INT64_MAX;
      EXPECT_NE(std::string(e.what()).find("No space left on device; make room"), std::string::npos)
          << e.what();
      ++failures;
    }
    const StoredSession session = StoredSession::open(dir, Access::read);
    // The last step of all makes a rename durable that is there already.
    const bool whole = session.tokens().size() == text.size() + 9;
    if (!whole) {
      ASSERT_TRUE(std::ranges::equal(session.tokens(), text));
    }
    expect_right(session);
    if (whole) text.assign(session.tokens().begin(), session.tokens().end());
  }
  EXPECT_GT(failures, 10);
}

TEST_F(Crash, AWriterIsOverWhenACommitFailed) {
  StoredSession session = StoredSession::create(scratch_.dir() / "full", testing::small_begin());
  grow(session, random_tokens(random_, 9));
  session.commit();
  grow(session, random_tokens(random_, 9));
  calls.calls_until_full = 0;
  expect_error([&] { session.commit(); }, {"cannot write to the disk", "No space"});
  calls.calls_until_full = INT64_MAX;
  expect_error([&] { session.commit(); }, {"could not be written before; open it again"});
  expect_error([&] { grow(session, random_tokens(random_, 9)); }, {"open it again"});
}

TEST_F(Crash, ForksCopyWhereThereAreNoLinks) {
  const fs::path a = scratch_.dir() / "a", b = scratch_.dir() / "b";
  const std::vector<int32_t> text = random_tokens(random_, 21);
  {
    StoredSession session = StoredSession::create(a, testing::small_begin());
    grow(session, text);
    session.commit();
  }
  calls.has_links = false;
  StoredSession::fork(a, b);
  EXPECT_EQ(fs::hard_link_count(b / "kv-0"), 1U);
  StoredSession::remove(a);
  const StoredSession copy = StoredSession::open(b, Access::read);
  expect_right(copy);
  EXPECT_TRUE(std::ranges::equal(copy.tokens(), text));
}

/// Writes a session for ever, as the seed says: text i of a seed is a prefix of its text i + 1
/// unless it was rolled back. Tells of every commit through `pipe`.
[[noreturn]] void write_for_ever(const fs::path& dir, uint32_t seed, int pipe) {
  std::mt19937 random(seed);
  StoredSession session = StoredSession::exists(dir)
                              ? StoredSession::open(dir, Access::write)
                              : StoredSession::create(dir, testing::small_begin());
  for (;;) {
    if (random() % 4 == 0)
      session.roll_back(static_cast<int64_t>(random() % (session.tokens().size() + 1)));
    grow(session, random_tokens(random, random() % 30));
    const uint64_t will = checksum_of(session.tokens());
    if (::write(pipe, &will, sizeof will) != sizeof will) ::_exit(1);
    session.commit();
    if (::write(pipe, &will, sizeof will) != sizeof will) ::_exit(1);
  }
}

TEST_F(Crash, KilledWritersLoseNothingThatWasCommitted) {
  calls.syncs = false;  // what a dead process has written is there without
  const fs::path dir = scratch_.dir() / "killed";
  int commits = 0, kills_in_commit = 0;
  for (uint32_t round = 0; round < 250 && !HasFatalFailure(); ++round) {
    if (round % 25 == 0) fs::remove_all(dir);
    const bool existed = StoredSession::exists(dir);
    uint64_t committed = 0, begun = 0;
    if (existed) committed = checksum_of(StoredSession::open(dir, Access::read).tokens());
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) write_for_ever(dir, round, ends[1]);
    ::close(ends[1]);
    // Every text is told twice: before its commit and after.
    uint64_t told = 0;
    bool within = false, any = existed;
    const auto hear = [&] {
      if (::read(ends[0], &told, sizeof told) != sizeof told) return false;
      within = !within;
      if (within) begun = told;
      if (!within) committed = told, any = true, ++commits;
      return true;
    };
    for (auto heard = random_() % 8; heard > 0;) heard = hear() ? heard - 1 : 0;
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 500));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    while (hear()) {
    }
    ::close(ends[0]);
    if (within) ++kills_in_commit;
    if (!StoredSession::exists(dir)) {
      EXPECT_FALSE(any);
      continue;
    }
    const StoredSession session = StoredSession::open(dir, Access::read);
    const uint64_t found = checksum_of(session.tokens());
    EXPECT_TRUE((any && found == committed) || (within && found == begun)) << round;
    expect_right(session);
    EXPECT_TRUE(verify_session(dir).empty());
  }
  EXPECT_GT(commits, 100);
  EXPECT_GT(kills_in_commit, 0);
}

}  // namespace
}  // namespace sala
