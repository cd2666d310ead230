#include <algorithm>
#include <cstring>
#include <functional>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/work.h"
#include "ops/math.h"

// kv_append and compress_keys: data movement, a few hundred operations a token and layer. Parallel
// over runs of tokens in one page, or windows, times kv heads.

namespace sala::cpu {
namespace {

template <class T>
T narrow(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return f32_to_bf16(x);
  }
}
float wide(float x) { return x; }
float wide(uint16_t x) { return bf16_to_f32(x); }

/// Calls f(T{}) with the element type of a field.
template <class F>
void visit(DType type, const F& f) {
  if (type == DType::f32) {
    f(float{});
  } else {
    f(uint16_t{});
  }
}

/// What becomes of bits that are to be in a page.
enum class Put : uint8_t { write, compare };

template <Put kPut, class T>
void put(T* place, T bits) {
  if constexpr (kPut == Put::write) {
    *place = bits;
  } else {
    SALA_CHECK(std::memcmp(place, &bits, sizeof bits) == 0,
               "a replayed token gives {} where its page has {}", bits, *place);
  }
}

template <Put kPut, class T>
void put_run(const Sequences& sequences, const Run& run, int64_t g, In k, In v,
             const KvPages& pages) {
  const int64_t d = pages.head_dim;
  const int64_t lanes = pages.page_lanes();
  const int64_t page = pool_page(sequences, run.sequence, run.position / pages.page);
  const int64_t first = run.position % pages.page;
  T* keys = reinterpret_cast<T*>(pages.frame(page)) + g * pages.head_elements();
  T* values = keys + d * lanes + first * d;
  constexpr int64_t kColumns =
      16;  // of the token's row that one pass turns: a line of k is read once
  for (int64_t c0 = 0; c0 < d; c0 += kColumns) {
    const int64_t c1 = std::min(d, c0 + kColumns);
    for (int64_t t = 0; t < run.count; ++t) {
      const float* row = k.row<float>(run.token + t) + g * d;
      for (int64_t c = c0; c < c1; ++c) put<kPut>(&keys[c * lanes + first + t], narrow<T>(row[c]));
    }
  }
  for (int64_t t = 0; t < run.count; ++t) {
    const float* row = v.row<float>(run.token + t) + g * d;
    for (int64_t c = 0; c < d; ++c) put<kPut>(&values[t * d + c], narrow<T>(row[c]));
  }
}

template <class T>
void append_run(const Sequences& sequences, const Run& run, int64_t g, In k, In v,
                const KvPages& pages) {
  const auto kept = static_cast<int32_t>(
      std::clamp<int64_t>(sequences.kept_of(run.sequence) - run.position, 0, run.count));
  Run old = run;
  old.count = kept;
  if (kAssertions && kept > 0 &&
      pages.mapped(pool_page(sequences, run.sequence, run.position / pages.page)))
    put_run<Put::compare, T>(sequences, old, g, k, v, pages);
  const Run fresh = {.sequence = run.sequence,
                     .token = run.token + kept,
                     .count = run.count - kept,
                     .position = run.position + kept};
  if (fresh.count > 0) put_run<Put::write, T>(sequences, fresh, g, k, v, pages);
}

/// A window that ends at a token of this step.
struct Window {
  int64_t sequence;
  int64_t index;
};

/// Whether all keys of a window have a frame.
bool has_frames(const Sequences& sequences, Window window, const KvPages& pages,
                const CompressedKeys& keys) {
  for (int64_t i = window.index * keys.stride / pages.page;
       i <= keys.page_of(window.index, pages.page); ++i)
    if (!pages.mapped(pool_page(sequences, window.sequence, i))) return false;
  return true;
}

template <Put kPut, class T, class U>
void put_window(const Sequences& sequences, Window window, int64_t g, const KvPages& pages,
                const CompressedKeys& compressed) {
  constexpr int64_t kChains = 8;  // sums in flight: each is one chain of additions, token by token
  const int64_t d = pages.head_dim;
  const int64_t lanes = pages.page_lanes();
  const int64_t end_page = compressed.page_of(window.index, pages.page);
  const int64_t entry = window.index - compressed.first_window(end_page, pages.page);
  U* out = page_data<U>(compressed.field, pool_page(sequences, window.sequence, end_page)) +
           (g * compressed.capacity(pages.page) + entry) * d;
  const int64_t first = window.index * compressed.stride;
  const int64_t last = first + compressed.size;
  const float inverse = 1.0f / static_cast<float>(compressed.size);
  for (int64_t c0 = 0; c0 < d; c0 += kChains) {
    const int64_t chains = std::min(kChains, d - c0);
    float sum[kChains] = {};
    for (int64_t token = first; token < last;) {
      const int64_t page = token / pages.page;
      const int64_t end = std::min(last, (page + 1) * pages.page);
      const T* keys =
          reinterpret_cast<const T*>(pages.frame(pool_page(sequences, window.sequence, page))) +
          g * pages.head_elements() + c0 * lanes;
      for (; token < end; ++token)
        for (int64_t c = 0; c < chains; ++c) sum[c] += wide(keys[c * lanes + token % pages.page]);
    }
    for (int64_t c = 0; c < chains; ++c) put<kPut>(&out[c0 + c], narrow<U>(sum[c] * inverse));
  }
}

template <class T, class U>
void compress_window(const Sequences& sequences, Window window, int64_t g, const KvPages& pages,
                     const CompressedKeys& keys) {
  if (window.index >= keys.windows(sequences.kept_of(window.sequence))) {
    put_window<Put::write, T, U>(sequences, window, g, pages, keys);
  } else if (has_frames(sequences, window, pages, keys)) {
    put_window<Put::compare, T, U>(sequences, window, g, pages, keys);
  }
}

}  // namespace

void kv_append(Device& device, const Sequences& sequences, In k, In v, const KvPages& pages) {
  const Runs runs = cut_runs(self(device), sequences, pages.page, pages.page);
  if (runs.count == 0) return;
  visit(pages.field.type, [&](auto element) {
    for_rows(self(device), runs.count * pages.kv_heads, runs.data[0].count * 2LL * pages.head_dim,
             [&](int64_t i) {
               append_run<decltype(element)>(sequences, runs.data[i / pages.kv_heads],
                                             i % pages.kv_heads, k, v, pages);
             });
  });
}

void compress_keys(Device& device, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys) {
  const int64_t most = sequences.tokens() / keys.stride + sequences.count();
  auto* windows = reinterpret_cast<Window*>(
      self(device).scratch(0, most * static_cast<int64_t>(sizeof(Window))));
  const auto* starts = sequences.starts.as<int32_t>();
  int64_t count = 0;
  for (int64_t s = 0; s < sequences.count(); ++s) {
    if (starts[s] == starts[s + 1]) continue;
    const int64_t first = sequences.positions.as<int32_t>()[starts[s]];
    const int64_t fresh = kAssertions ? first : std::max(first, sequences.kept_of(s));
    const int64_t end = keys.windows(first + starts[s + 1] - starts[s]);
    for (int64_t j = keys.windows(fresh); j < end; ++j) windows[count++] = {s, j};
  }
  const int64_t cost = static_cast<int64_t>(keys.size) * pages.head_dim;
  visit(pages.field.type, [&](auto stored) {
    visit(keys.field.type, [&](auto mean) {
      for_rows(self(device), count * pages.kv_heads, cost, [&](int64_t i) {
        compress_window<decltype(stored), decltype(mean)>(sequences, windows[i / pages.kv_heads],
                                                          i % pages.kv_heads, pages, keys);
      });
    });
  });
}

}  // namespace sala::cpu
