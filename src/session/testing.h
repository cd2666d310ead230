#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "base/testing.h"
#include "session/checksum.h"
#include "session/stored_session.h"

/// Sessions whose every byte follows from their tokens, so that a test can tell right from wrong.
namespace sala::testing {

using Bytes = std::vector<std::byte>;

inline SessionLayout small_layout() {
  return {.page = 4, .cell = 2, .kv = {32, 0, 96}, .index = {8, 0, 16}, .state = 40};
}

/// The beginning of a session of that layout.
inline Manifest small_begin() {
  return {.model = "models/small",
          .identity = {{"config", "1f"}, {"kv", "bf16"}},
          .layout = small_layout(),
          .origins = {{.first = 0, .numerics = {{"isa", "avx512"}}}}};
}

/// `count` bytes that depend on a text and on `salt`.
inline Bytes bytes_for(std::span<const int32_t> text, uint64_t salt, size_t count) {
  uint64_t state = checksum_of(text) + salt;
  Bytes bytes(count);
  for (std::byte& b : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    b = static_cast<std::byte>(state >> 56);
  }
  return bytes;
}

/// What one layer keeps of a page: for each token of the text a row that depends on all before it.
inline Bytes kv_for(std::span<const int32_t> text, int64_t page, size_t layer) {
  const SessionLayout layout = small_layout();
  const size_t row = static_cast<size_t>(layout.kv[layer] / layout.page);
  Bytes bytes;
  for (int64_t i = page * layout.page; i < (page + 1) * layout.page && i < std::ssize(text); ++i) {
    const Bytes more = bytes_for(text.first(static_cast<size_t>(i + 1)), layer, row);
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  return bytes;
}

inline Bytes index_for(std::span<const int32_t> text, int64_t page) {
  const SessionLayout layout = small_layout();
  const int64_t end = std::min((page + 1) * layout.page, std::ssize(text));
  return bytes_for(text.first(static_cast<size_t>(end)), 100,
                   static_cast<size_t>(layout.index_bytes()));
}

inline Bytes state_for(std::span<const int32_t> text, int64_t position) {
  return bytes_for(text.first(static_cast<size_t>(position)), 200,
                   static_cast<size_t>(small_layout().state));
}

/// Adds tokens with their pages, and a snapshot at the last multiple of the cell.
inline void grow(StoredSession& session, std::span<const int32_t> tokens) {
  const SessionLayout& layout = session.layout();
  const int64_t first = std::ssize(session.tokens()) / layout.page;
  session.append_tokens(tokens);
  const auto text = session.tokens();
  for (int64_t page = first; page < layout.pages(std::ssize(text)); ++page) {
    Bytes kv;
    for (size_t layer = 0; layer < layout.kv.size(); ++layer) {
      Bytes more = kv_for(text, page, layer);
      more.resize(static_cast<size_t>(layout.kv[layer]));
      kv.insert(kv.end(), more.begin(), more.end());
    }
    session.write_page(page, kv, index_for(text, page));
  }
  const int64_t cell = std::ssize(text) / layout.cell * layout.cell;
  if (cell > 0) session.add_snapshot(cell, state_for(text, cell));
}

/// Reads everything of a session. Throws the Error of what is damaged; fails the test when bytes
/// are given that are not those of its tokens.
inline void expect_right(const StoredSession& session) {
  const SessionLayout& layout = session.layout();
  const auto text = session.tokens();
  ASSERT_EQ(std::ssize(text), session.manifest().tokens);
  for (int64_t page = 0; page < layout.pages(std::ssize(text)); ++page) {
    const int64_t record = session.record_of(page);
    for (size_t layer = 0; layer < layout.kv.size(); ++layer) {
      Bytes kv(static_cast<size_t>(layout.kv[layer]));
      session.read_kv(record, static_cast<int>(layer), kv);
      const Bytes right = kv_for(text, page, layer);
      ASSERT_TRUE(std::equal(right.begin(), right.end(), kv.begin())) << page << " " << layer;
    }
    Bytes index(static_cast<size_t>(layout.index_bytes()));
    session.read_index(record, index);
    // After a roll back the last page is one of a longer text.
    if ((page + 1) * layout.page <= std::ssize(text)) {
      ASSERT_EQ(index, index_for(text, page)) << page;
    }
  }
  for (size_t i = 0; i < session.manifest().snapshots.size(); ++i)
    ASSERT_EQ(session.read_snapshot(i), state_for(text, session.manifest().snapshots[i].position));
}

inline std::vector<int32_t> random_tokens(std::mt19937& random, size_t count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 1000);
  return tokens;
}

}  // namespace sala::testing
