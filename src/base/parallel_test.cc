#include "base/parallel.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <thread>

namespace sala {
namespace {

TEST(ThreadPool, DoesEveryPieceOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> done(static_cast<size_t>(count));
      pool.run(count, [&](int64_t i, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        ++done[static_cast<size_t>(i)];
      });
      for (const auto& times : done) EXPECT_EQ(times, 1);
    }
  }
}

TEST(ThreadPool, SharesTheWork) {
  ThreadPool pool(3);
  std::atomic<int> waiting{0};
  std::vector<std::thread::id> ids(3);
  // Nobody finishes before all three have begun.
  pool.run(3, [&](int64_t, int thread) {
    ids[static_cast<size_t>(thread)] = std::this_thread::get_id();
    ++waiting;
    while (waiting < 3) std::this_thread::yield();
  });
  EXPECT_EQ(std::set(ids.begin(), ids.end()).size(), 3U);
  EXPECT_EQ(ids[0], std::this_thread::get_id()) << "the caller is thread 0";
}

TEST(ThreadPool, ResultsAreThereWhenItReturns) {
  ThreadPool pool(4);
  int64_t plain[16] = {};
  for (int round = 1; round <= 3000; ++round) {
    pool.run(16, [&](int64_t i, int) { plain[i] += i; });
    for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(plain[i], i * round);
  }
}

TEST(ThreadPool, LateThreadsTakePartInTheLoopThatIs) {
  ThreadPool pool(8);  // more than there are cores: some look for pieces loops later
  for (int round = 0; round < 5000; ++round) {
    std::vector<int> times(static_cast<size_t>(1 + round % 5));
    pool.run(std::ssize(times),
             [&times, round](int64_t i, int) { times[static_cast<size_t>(i)] += 1 + round; });
    ASSERT_EQ(times, std::vector<int>(times.size(), 1 + round));
  }
}

TEST(ThreadPool, WakesFromSleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int64_t> sum{0};
    pool.run(100, [&](int64_t i, int) { sum += i; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST(ThreadPool, EndsWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

TEST(Cores, ThereIsOne) { EXPECT_GE(available_cores(), 1); }

}  // namespace
}  // namespace sala
