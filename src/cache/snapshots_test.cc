#include "cache/snapshots.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace sala {
namespace {

void fill(Snapshots& pool, std::vector<SnapshotRef>& all, int64_t position) {
  all.push_back(pool.make(position, all.empty() ? nullptr : all.back(), [&](auto bytes) {
    for (std::byte& b : bytes) b = static_cast<std::byte>(position);
  }));
}

std::vector<int64_t> alive(const std::vector<SnapshotRef>& all) {
  std::vector<int64_t> positions;
  for (const SnapshotRef& s : all)
    if (s->alive()) positions.push_back(s->position());
  return positions;
}

std::filesystem::path scratch() { return std::filesystem::temp_directory_path(); }

TEST(Snapshots, StayWithinTheirMemoryAndThinOutTowardsThePast) {
  constexpr int64_t kBytes = 16, kSlots = 8;
  Snapshots pool(kBytes, kSlots * kBytes, 0, scratch());
  std::vector<SnapshotRef> all;
  for (int64_t position = 1; position <= 100; ++position) {
    fill(pool, all, position);
    EXPECT_LE(pool.in_memory(), kSlots * kBytes);
  }
  const std::vector<int64_t> left = alive(all);
  ASSERT_EQ(left.size(), static_cast<size_t>(kSlots));
  EXPECT_EQ(left.back(), 100);
  EXPECT_LE(left.front(), 70);
  EXPECT_LE(left[7] - left[6], left[1] - left[0]);
}

TEST(Snapshots, GoToDiskAndComeBack) {
  constexpr int64_t kBytes = 64;
  Snapshots pool(kBytes, 3 * kBytes, 4 * kBytes, scratch());
  std::vector<SnapshotRef> all;
  for (int64_t position = 1; position <= 7; ++position) fill(pool, all, position);
  EXPECT_EQ(alive(all).size(), 7u);
  EXPECT_EQ(pool.in_memory(), 3 * kBytes);
  for (const SnapshotRef& s : all) {
    std::vector<std::byte> bytes(kBytes);
    pool.read(*s, bytes);
    EXPECT_EQ(bytes[5], static_cast<std::byte>(s->position()));
  }
  for (int64_t position = 8; position <= 60; ++position) fill(pool, all, position);
  EXPECT_EQ(alive(all).size(), 7u);
  for (const SnapshotRef& s : all) {
    if (!s->alive()) continue;
    std::vector<std::byte> bytes(kBytes);
    pool.read(*s, bytes);
    EXPECT_EQ(bytes[9], static_cast<std::byte>(s->position()));
  }
  all.clear();
  EXPECT_EQ(pool.in_memory(), 0);
}

TEST(Snapshots, WithoutRoomThereAreNone) {
  Snapshots pool(16, 15, 0, scratch());
  EXPECT_EQ(pool.make(4, nullptr, [](auto) {}), nullptr);
}

}  // namespace
}  // namespace sala
