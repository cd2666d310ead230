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

/// Code rows that are turned together: a line of k is read once, and a group of int4 is as many.
constexpr int64_t kRows = kInt4Group / 2;

/// Tokens of a run as they lie in a page.
struct Tokens {
  const KvPages& pages;
  uint16_t* grid;  ///< [grid_rows][page_lanes]
  int64_t first;   ///< place of the first in the page

  uint16_t* grid_of(int64_t row, int64_t t) const {
    return grid + row * pages.page_lanes() + first + t;
  }
};

template <Put kPut>
void put_grids(const Tokens& tokens, int64_t t, const float* x) {
  const KvPages& pages = tokens.pages;
  for (int64_t i = 0; i < pages.groups(); ++i) {
    const int64_t channel = i * pages.group();
    const KvGrid numbers = grid_of(pages.type, x + channel,
                                   std::min<int64_t>(pages.group(), pages.head_dim - channel));
    put<kPut>(tokens.grid_of(i, t), f32_to_f16(numbers.scale));
    if (pages.type == KvType::int4)
      put<kPut>(tokens.grid_of(pages.groups() + i, t), f32_to_f16(numbers.minimum));
  }
}

/// Code rows [row, row + count) of token t, of one group, whose channels are x.
template <KvType kType>
void encode(const Tokens& tokens, int64_t t, const float* x, int64_t row, int64_t count,
            KvCode<kType>* codes) {
  const KvPages& pages = tokens.pages;
  if constexpr (kType == KvType::f32) {
    for (int64_t i = 0; i < count; ++i) codes[i] = x[row + i];
  } else if constexpr (kType == KvType::bf16) {
    for (int64_t i = 0; i < count; ++i) codes[i] = f32_to_bf16(x[row + i]);
  } else if constexpr (kType == KvType::int8) {
    const KvGrid numbers{.scale = f16_to_f32(*tokens.grid_of(0, t))};
    const float inverse = numbers.inverse();
    for (int64_t i = 0; i < count; ++i)
      codes[i] = static_cast<int8_t>(code_of(kType, numbers, inverse, x[row + i]));
  } else {
    const int64_t group = row / kRows;
    const KvGrid numbers{.scale = f16_to_f32(*tokens.grid_of(group, t)),
                         .minimum = f16_to_f32(*tokens.grid_of(pages.groups() + group, t))};
    const float inverse = numbers.inverse();
    const int64_t channel = group * kInt4Group + row % kRows;
    const auto code_at = [&](int64_t c) {
      return c < pages.head_dim ? code_of(kType, numbers, inverse, x[c]) : 0;
    };
    for (int64_t i = 0; i < count; ++i)
      codes[i] = static_cast<uint8_t>(code_at(channel + i) | code_at(channel + kRows + i) << 4);
  }
}

template <Put kPut, KvType kType>
void put_run(const Sequences& sequences, const Run& run, int64_t g, In k, In v,
             const KvPages& pages) {
  const int64_t rows = pages.code_rows();
  const int64_t lanes = pages.page_lanes();
  const int64_t page = pool_page(sequences, run.sequence, run.position / pages.page);
  const int64_t first = run.position % pages.page;
  const KvHead head = pages.head(page, g);
  const Tokens key_tokens{pages, head.key_grid, first};
  const Tokens value_tokens{pages, head.value_grid, first};
  auto* keys = reinterpret_cast<KvCode<kType>*>(head.keys);
  auto* values = reinterpret_cast<KvCode<kType>*>(head.values);
  const auto row_of = [&](In x, int64_t t) {
    return x.row<float>(run.token + t) + g * pages.head_dim;
  };
  for (int64_t t = 0; t < run.count; ++t) {
    put_grids<kPut>(key_tokens, t, row_of(k, t));
    put_grids<kPut>(value_tokens, t, row_of(v, t));
  }
  KvCode<kType> codes[kRows];
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = std::min(kRows, rows - row);
    for (int64_t t = 0; t < run.count; ++t) {
      encode<kType>(key_tokens, t, row_of(k, t), row, count, codes);
      for (int64_t i = 0; i < count; ++i)
        put<kPut>(&keys[kv_place(kType, row + i, first + t, lanes)], codes[i]);
      encode<kType>(value_tokens, t, row_of(v, t), row, count, codes);
      for (int64_t i = 0; i < count; ++i)
        put<kPut>(&values[kv_place(kType, first + t, row + i, rows)], codes[i]);
    }
  }
}

template <KvType kType>
void append_run(const Sequences& sequences, const Run& run, int64_t g, In k, In v,
                const KvPages& pages) {
  const auto kept = static_cast<int32_t>(
      std::clamp<int64_t>(sequences.kept_of(run.sequence) - run.position, 0, run.count));
  Run old = run;
  old.count = kept;
  if (kAssertions && kept > 0 &&
      pages.mapped(pool_page(sequences, run.sequence, run.position / pages.page)))
    put_run<Put::compare, kType>(sequences, old, g, k, v, pages);
  const Run fresh = {.sequence = run.sequence,
                     .token = run.token + kept,
                     .count = run.count - kept,
                     .position = run.position + kept};
  if (fresh.count > 0) put_run<Put::write, kType>(sequences, fresh, g, k, v, pages);
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

/// The keys of one kv head and page, some channels at a time.
template <KvType kType>
struct KeyReader {
  const KvPages& pages;
  const uint16_t* grid;
  const KvCode<kType>* codes;

  KeyReader(const KvPages& from, const KvHead& head)
      : pages(from),
        grid(head.key_grid),
        codes(reinterpret_cast<const KvCode<kType>*>(head.keys)) {}

  /// sum[i] += channel c + i of token t, for `count` channels of one half of a group.
  void add(int64_t t, int64_t c, int64_t count, float* sum) const {
    const int64_t lanes = pages.page_lanes();
    const auto at = [&](int64_t row) { return codes[kv_place(kType, row, t, lanes)]; };
    if constexpr (kType == KvType::f32) {
      for (int64_t i = 0; i < count; ++i) sum[i] += at(c + i);
    } else if constexpr (kType == KvType::bf16) {
      for (int64_t i = 0; i < count; ++i) sum[i] += bf16_to_f32(at(c + i));
    } else if constexpr (kType == KvType::int8) {
      const KvGrid numbers{.scale = f16_to_f32(grid[t])};
      for (int64_t i = 0; i < count; ++i) sum[i] += numbers.value(at(c + i));
    } else {
      const int64_t group = c / kInt4Group;
      const KvGrid numbers{.scale = f16_to_f32(grid[group * lanes + t]),
                           .minimum = f16_to_f32(grid[(pages.groups() + group) * lanes + t])};
      const int64_t row = group * kRows + c % kRows;
      const int shift = c % kInt4Group < kRows ? 0 : 4;
      for (int64_t i = 0; i < count; ++i) sum[i] += numbers.value(at(row + i) >> shift & 15);
    }
  }
};

template <class T>
T narrow(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return f32_to_bf16(x);
  }
}

template <Put kPut, KvType kType>
void put_window(const Sequences& sequences, Window window, int64_t g, const KvPages& pages,
                const CompressedKeys& compressed) {
  using Mean = std::conditional_t<kType == KvType::f32, float, uint16_t>;
  constexpr int64_t kChains = 8;  // sums in flight: each is one chain of additions, token by token
  const int64_t d = pages.head_dim;
  const int64_t end_page = compressed.page_of(window.index, pages.page);
  const int64_t entry = window.index - compressed.first_window(end_page, pages.page);
  auto* out = page_data<Mean>(compressed.field, pool_page(sequences, window.sequence, end_page)) +
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
      const KeyReader<kType> keys(pages,
                                  pages.head(pool_page(sequences, window.sequence, page), g));
      for (; token < end; ++token) keys.add(token % pages.page, c0, chains, sum);
    }
    for (int64_t c = 0; c < chains; ++c) put<kPut>(&out[c0 + c], narrow<Mean>(sum[c] * inverse));
  }
}

template <KvType kType>
void compress_window(const Sequences& sequences, Window window, int64_t g, const KvPages& pages,
                     const CompressedKeys& keys) {
  if (window.index >= keys.windows(sequences.kept_of(window.sequence))) {
    put_window<Put::write, kType>(sequences, window, g, pages, keys);
  } else if (has_frames(sequences, window, pages, keys)) {
    put_window<Put::compare, kType>(sequences, window, g, pages, keys);
  }
}

}  // namespace

void kv_append(Device& device, const Sequences& sequences, In k, In v, const KvPages& pages) {
  const Runs runs = cut_runs(self(device), sequences, pages.page, pages.page);
  if (runs.count == 0) return;
  for_kv_type(pages.type, [&]<KvType kType>() {
    for_rows(self(device), runs.count * pages.kv_heads, runs.data[0].count * 2LL * pages.head_dim,
             [&](int64_t i) {
               append_run<kType>(sequences, runs.data[i / pages.kv_heads], i % pages.kv_heads, k, v,
                                 pages);
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
  for_kv_type(pages.type, [&]<KvType kType>() {
    for_rows(self(device), count * pages.kv_heads, cost, [&](int64_t i) {
      compress_window<kType>(sequences, windows[i / pages.kv_heads], i % pages.kv_heads, pages,
                             keys);
    });
  });
}

}  // namespace sala::cpu
