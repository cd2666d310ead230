#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "cpu/device.h"
#include "ops/pages.h"
#include "ops/sequences.h"

namespace sala::cpu {

/// Consecutive tokens of one sequence that lie between two edges (of pages, of cells).
struct Run {
  int32_t sequence = 0;
  int32_t token = 0;     ///< first, in the step
  int32_t count = 0;     ///< tokens
  int32_t position = 0;  ///< of the first
};

/// The runs of a step, in lane 0 of the device's scratch.
struct Runs {
  const Run* data = nullptr;
  int64_t count = 0;
};

/// Cuts each sequence's tokens at positions that are multiples of `edge`, and further so that no
/// run has more than `longest`.
inline Runs cut_runs(CpuDevice& device, const Sequences& sequences, int edge, int longest) {
  const auto* starts = sequences.starts.as<int32_t>();
  const auto* positions = sequences.positions.as<int32_t>();
  auto* runs = reinterpret_cast<Run*>(
      device.scratch(0, sequences.tokens() * static_cast<int64_t>(sizeof(Run))));
  int64_t count = 0;
  for (int32_t s = 0; s < sequences.count(); ++s) {
    for (int32_t token = starts[s]; token < starts[s + 1];) {
      const int32_t position = positions[token];
      const int32_t size = std::min({longest, edge - position % edge, starts[s + 1] - token});
      runs[count++] = {.sequence = s, .token = token, .count = size, .position = position};
      token += size;
    }
  }
  return {runs, count};
}

/// Calls work(row) for each row, on several threads where that pays; a row costs about `elements`
/// operations.
template <class Work>
void for_rows(CpuDevice& device, int64_t rows, int64_t elements, const Work& work) {
  constexpr int64_t kGrain = 16384;  // a few microseconds: what waking a thread costs
  const int64_t chunk = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
  const auto part = [&](int64_t i, int) {
    const int64_t end = std::min(rows, (i + 1) * chunk);
    for (int64_t row = i * chunk; row < end; ++row) work(row);
  };
  device.pool().run((rows + chunk - 1) / chunk, std::cref(part));
}

/// Hands out parts of one thread's scratch, each on a 64-byte boundary. Without memory it only adds
/// up.
class Carver {
 public:
  explicit Carver(std::byte* data = nullptr) : data_(data) {}
  template <class T>
  T* take(int64_t count) {
    T* part = data_ == nullptr ? nullptr : reinterpret_cast<T*>(data_ + bytes_);
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return part;
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  int64_t bytes_ = 0;
};

/// The beginning of pool page `page` of a field, as elements of T.
template <class T>
T* page_data(const Paged& field, int64_t page) {
  return reinterpret_cast<T*>(field.data + page * field.stride);
}

/// The pool page that holds page index `index` of a sequence.
inline int64_t pool_page(const Sequences& sequences, int64_t sequence, int64_t index) {
  return sequences.page_table.row<int32_t>(sequence)[index];
}

}  // namespace sala::cpu
