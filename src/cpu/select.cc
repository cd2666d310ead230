#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/select.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/pairs.h"
#include "cpu/rows-inl.h"
#include "cpu/select_tile.h"
#include "cpu/work.h"

// block_select. Parallel over runs of queries in one page times kv heads. Vectors run over the
// heads of the queries, so that a window's key is read row by row as it lies, and the softmax over
// coarse windows needs no sums across lanes. Windows go in tiles at absolute indices. 2 d flops a
// head and window, 1/16 + 1/64 windows a token of context in the released models.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

/// scores [window][column] = q.k.
void score(const SelectTile& x) {
  Fetch fetch = no_fetch(x.q);
  const Matrix q{x.q, x.columns};
  for (int64_t first = 0; first < x.count; first += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, x.count - first));
    RowTile tile;
    for (int r = 0; r < count; ++r) {
      tile.a[r] = x.keys[first + r];
      tile.c[r] = x.scores + (first + r) * x.columns;
    }
    multiply_rows<true>(tile, count, 0, x.d, q, x.columns, fetch);
  }
}

/// The score is -inf where the query does not see the window.
void mask(const SelectTile& x) {
  if (!x.masked) return;
  const Floats d;
  const auto none = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t j = 0; j < x.count; ++j) {
    float* row = x.scores + j * x.columns;
    const auto index = hn::Set(d, static_cast<float>(x.first + j));
    for (int64_t c = 0; c < x.columns; c += lanes())
      hn::StoreU(
          hn::IfThenElse(hn::Lt(index, hn::LoadU(d, x.visible + c)), hn::LoadU(d, row + c), none),
          d, row + c);
  }
}

/// Adds a tile of coarse windows to the softmax of each column.
void normalise(const SelectTile& x) {
  mask(x);
  const Floats d;
  const auto none = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t c = 0; c < x.columns; c += lanes()) {
    const auto old = hn::LoadU(d, x.largest + c);
    auto now = old;
    for (int64_t j = 0; j < x.count; ++j)
      now = hn::Max(now, hn::LoadU(d, x.scores + j * x.columns + c));
    const auto base =
        hn::IfThenZeroElse(hn::Eq(now, none), now);  // a query that sees no window yet
    auto sum = hn::Zero(d);
    for (int64_t j = 0; j < x.count; ++j)
      sum = hn::Add(sum, exp(d, hn::Sub(hn::LoadU(d, x.scores + j * x.columns + c), base)));
    const auto rescaled = hn::Mul(hn::LoadU(d, x.sum + c), exp(d, hn::Sub(old, base)));
    hn::StoreU(hn::Add(rescaled, sum), d, x.sum + c);
    hn::StoreU(now, d, x.largest + c);
  }
}

/// votes [window][query] = the sum over the query's heads of exp(score - largest) * inverse sum:
/// vectors of heads in ascending order, then their lanes; head by head, for one query or a vector
/// of them, where a query has less than a vector of heads.
void vote(const SelectTile& x) {
  mask(x);
  const Floats d;
  const bool whole = x.heads >= 16;
  for (int64_t j = 0; j < x.count; ++j) {
    float* row = x.scores + j * x.columns;
    float* votes = x.votes + j * x.queries;
    for (int64_t c = 0; c < x.columns; c += lanes()) {
      const auto p = exp(d, hn::Sub(hn::LoadU(d, row + c), hn::LoadU(d, x.largest + c)));
      hn::StoreU(hn::Mul(p, hn::LoadU(d, x.sum + c)), d, row + c);
    }
    if (x.query_step == 1) {
      for (int64_t query = 0; query < x.queries; query += lanes()) {
        auto sum = hn::LoadU(d, row + query);
        for (int64_t h = 1; h < x.heads; ++h)
          sum = hn::Add(sum, hn::LoadU(d, row + query + h * x.head_step));
        hn::StoreU(sum, d, votes + query);
      }
      continue;
    }
    for (int64_t query = 0; query < x.queries; ++query) {
      const float* p = row + query * x.heads;
      float sum = 0.0f;
      if (whole) {
        auto lane_sums = hn::LoadU(d, p);
        for (int64_t h = lanes(); h < x.heads; h += lanes())
          lane_sums = hn::Add(lane_sums, hn::LoadU(d, p + h));
        sum = sum_lanes(d, lane_sums);
      } else {
        for (int64_t h = 0; h < x.heads; ++h) sum += p[h];
      }
      votes[query] = sum;
    }
  }
}

/// best [query] = the largest vote of the windows [first, end) of a tile.
void best_votes(const SelectTile& x, int64_t first, int64_t end, float* best) {
  const Floats d;
  int64_t query = 0;
  for (; query + lanes() <= x.queries; query += lanes()) {
    auto most = hn::LoadU(d, x.votes + first * x.queries + query);
    for (int64_t j = first + 1; j < end; ++j)
      most = hn::Max(most, hn::LoadU(d, x.votes + j * x.queries + query));
    hn::StoreU(most, d, best + query);
  }
  for (; query < x.queries; ++query) {
    best[query] = x.votes[first * x.queries + query];
    for (int64_t j = first + 1; j < end; ++j)
      best[query] = HWY_MAX(best[query], x.votes[j * x.queries + query]);
  }
}

void widen_row(const uint16_t* from, float* to, int64_t n) { widen(from, to, n); }

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {
namespace {

HWY_EXPORT(score);
HWY_EXPORT(normalise);
HWY_EXPORT(vote);
HWY_EXPORT(best_votes);
HWY_EXPORT(widen_row);

constexpr int64_t kTile = 64;          ///< windows
constexpr int64_t kMostColumns = 128;  ///< q^T of an item stays in the second-level cache
constexpr float kNone = -std::numeric_limits<float>::infinity();

/// Scores by products of pairs.
void score_pairs(const SelectTile& x) {
  const PairMatrix q{x.q_pairs, x.columns, x.columns};
  const int64_t most = x.columns == 16 ? kManyPairRows : kPairRows;
  Lines lines;
  for (int64_t first = 0; first < x.count;) {
    const int64_t left = x.count - first;
    const auto count = static_cast<int>(left >= most ? most : std::min<int64_t>(left, kPairRows));
    PairRows rows;
    for (int r = 0; r < count; ++r) {
      rows.a[r] = reinterpret_cast<const uint32_t*>(x.keys[first + r]);
      rows.c[r] = x.scores + (first + r) * x.columns;
    }
    multiply_pairs(true, count, rows, {0, x.d / 2, false}, q, lines);
    first += count;
  }
}

struct Scratch {
  float* q;
  float* wide;     ///< [kTile][d]
  float* visible;  ///< [columns]
  SelectTile tile;
  float* best;      ///< [queries] of one block in one tile
  float* pooled;    ///< [queries][blocks]
  uint64_t* order;  ///< [room_to_order()]
};

/// One call of the op.
struct Call {
  const Sequences& sequences;
  In q;
  const KvPages& pages;
  const CompressedKeys& fine;
  const CompressedKeys& coarse;
  const Selection& selection;
  In sparse;
  Out lists, counts;
  int64_t group = 0;        ///< heads of a kv head
  int64_t heads = 0;        ///< the same, padded
  int64_t longest = 0;      ///< queries of a run
  int64_t most_blocks = 0;  ///< of any query

  int64_t columns() const { return (longest * heads + 15) / 16 * 16; }
  int64_t room_to_order() const { return 4 * int64_t{selection.top}; }
  bool paired() const { return in_pairs(selection.compute, pages.type) && pages.head_dim % 2 == 0; }
  Scratch carve(Carver& carver) const;
  void transpose_q(const Run& run, int64_t g, Scratch& scratch) const;
  void see(const Run& run, const CompressedKeys& keys, Scratch& scratch) const;
  void take_tile(const Run& run, int64_t g, const CompressedKeys& keys, int64_t first,
                 Scratch& scratch) const;
  void finish_normaliser(const Run& run, Scratch& scratch) const;
  void pool_tile(const Run& run, Scratch& scratch) const;
  void score_tile(const SelectTile& tile) const;
  void score_blocks(const Run& run, int64_t g, Scratch& scratch) const;
  void choose(const float* scores, int64_t blocks, uint64_t* order, int32_t* list) const;
  void select_run(const Run& run, int64_t g, Scratch& scratch) const;
};

Scratch Call::carve(Carver& carver) const {
  const int64_t d = pages.head_dim;
  Scratch scratch{};
  scratch.q = carver.take<float>(d * columns());
  scratch.wide = carver.take<float>(kTile * d);
  scratch.visible = carver.take<float>(columns());
  scratch.pooled = carver.take<float>(longest * most_blocks);
  scratch.best = carver.take<float>(longest);
  scratch.order = carver.take<uint64_t>(room_to_order());
  SelectTile& tile = scratch.tile;
  tile.d = d;
  tile.heads = heads;
  tile.q = scratch.q;
  tile.visible = scratch.visible;
  tile.keys = carver.take<const float*>(kTile);
  tile.scores = carver.take<float>(kTile * columns());
  tile.largest = carver.take<float>(columns());
  tile.sum = carver.take<float>(columns());
  tile.votes = carver.take<float>(kTile * longest);
  return scratch;
}

/// The heads of the run's queries as columns, multiplied by head_dim^-1/2.
void Call::transpose_q(const Run& run, int64_t g, Scratch& scratch) const {
  const int64_t d = pages.head_dim;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  SelectTile& tile = scratch.tile;
  tile.queries = run.count;
  tile.columns = (run.count * heads + 15) / 16 * 16;
  const bool by_head = heads < 16 && run.count % 16 == 0;
  tile.query_step = by_head ? 1 : heads;
  tile.head_step = by_head ? run.count : 1;
  const int64_t columns = tile.columns;
  auto* pairs = reinterpret_cast<uint16_t*>(scratch.q);
  tile.q_pairs = paired() ? reinterpret_cast<const uint32_t*>(scratch.q) : nullptr;
  std::fill_n(scratch.q, d * columns, 0.0f);
  for (int64_t query = 0; query < run.count; ++query)
    for (int64_t h = 0; h < group; ++h) {
      const float* row = q.row<float>(run.token + query) + (g * group + h) * d;
      const int64_t column = query * tile.query_step + h * tile.head_step;
      for (int64_t i = 0; i < d; ++i) {
        const float x = row[i] * scale;
        if (paired()) {
          pairs[(i / 2 * columns + column) * 2 + i % 2] = f32_to_bf16(x);
        } else {
          scratch.q[i * columns + column] =
              rounds(selection.compute, pages.type) ? bf16_to_f32(f32_to_bf16(x)) : x;
        }
      }
    }
}

/// Which windows of a level each column sees.
void Call::see(const Run& run, const CompressedKeys& keys, Scratch& scratch) const {
  const SelectTile& tile = scratch.tile;
  std::fill_n(scratch.visible, tile.columns, std::numeric_limits<float>::max());
  for (int64_t query = 0; query < run.count; ++query)
    for (int64_t h = 0; h < heads; ++h)
      scratch.visible[query * tile.query_step + h * tile.head_step] =
          static_cast<float>(keys.windows(run.position + query + 1));
}

/// The windows [first, first + kTile) of a level, as far as the last query of the run sees them.
void Call::take_tile(const Run& run, int64_t g, const CompressedKeys& keys, int64_t first,
                     Scratch& scratch) const {
  SelectTile& tile = scratch.tile;
  const int64_t d = pages.head_dim;
  const int64_t capacity = keys.capacity(pages.page);
  tile.first = first;
  tile.count = std::min(kTile, keys.windows(run.position + run.count) - first);
  tile.masked = first + tile.count > keys.windows(run.position + 1);
  int64_t end = 0;  // of the page at hand
  int64_t offset = 0;
  const std::byte* data = nullptr;
  for (int64_t i = 0; i < tile.count; ++i) {
    if (const int64_t last = (first + i) * keys.stride + keys.size - 1; last >= end) {
      const int64_t page = last / pages.page;
      end = (page + 1) * pages.page;
      data = page_data<const std::byte>(keys.field, pool_page(sequences, run.sequence, page));
      offset = g * capacity - keys.first_window(page, pages.page);
    }
    const int64_t at = (offset + first + i) * d;
    if (paired()) {
      tile.keys[i] = reinterpret_cast<const float*>(reinterpret_cast<const uint16_t*>(data) + at);
    } else if (index_type(pages.type) == DType::f32) {
      tile.keys[i] = reinterpret_cast<const float*>(data) + at;
    } else {
      HWY_DYNAMIC_DISPATCH(widen_row)(reinterpret_cast<const uint16_t*>(data) + at,
                                      scratch.wide + i * d, d);
      tile.keys[i] = scratch.wide + i * d;
    }
  }
}

/// Inverts the sums. A query without a coarse window gets zero votes, and padding casts none.
void Call::finish_normaliser(const Run& run, Scratch& scratch) const {
  SelectTile& tile = scratch.tile;
  for (int64_t c = 0; c < tile.columns; ++c) {
    const bool real = c < run.count * heads && c / tile.head_step % heads < group;
    if (real && tile.sum[c] != 0.0f) {
      tile.sum[c] = 1.0f / tile.sum[c];
    } else {
      tile.sum[c] = 0.0f;
      tile.largest[c] = std::numeric_limits<float>::max();
    }
  }
}

/// A block's score is the best vote of the windows that begin in it and of the one before them.
void Call::pool_tile(const Run& run, Scratch& scratch) const {
  const SelectTile& tile = scratch.tile;
  const int64_t per_block = pages.page / fine.stride;
  const int64_t last =
      std::min<int64_t>(run.position / pages.page, (tile.first + tile.count) / per_block);
  for (int64_t block = tile.first / per_block; block <= last; ++block) {
    const int64_t first = std::max<int64_t>(block * per_block - 1 - tile.first, 0);
    const int64_t end = std::min((block + 1) * per_block - tile.first, tile.count);
    if (first >= end) continue;
    if (!tile.masked) HWY_DYNAMIC_DISPATCH(best_votes)(tile, first, end, scratch.best);
    for (int64_t query = 0; query < run.count; ++query) {
      float& pooled = scratch.pooled[query * most_blocks + block];
      if (!tile.masked) {
        pooled = std::max(pooled, scratch.best[query]);
        continue;
      }
      const int64_t seen = fine.windows(run.position + query + 1) - tile.first;
      for (int64_t i = first; i < std::min(end, seen); ++i)
        pooled = std::max(pooled, tile.votes[i * tile.queries + query]);
    }
  }
}

void Call::score_tile(const SelectTile& tile) const {
  if (paired()) {
    score_pairs(tile);
  } else {
    HWY_DYNAMIC_DISPATCH(score)(tile);
  }
}

void Call::score_blocks(const Run& run, int64_t g, Scratch& scratch) const {
  transpose_q(run, g, scratch);
  SelectTile& tile = scratch.tile;
  std::fill_n(tile.largest, tile.columns, kNone);
  std::fill_n(tile.sum, tile.columns, 0.0f);
  see(run, coarse, scratch);
  for (int64_t first = 0; first < coarse.windows(run.position + run.count); first += kTile) {
    take_tile(run, g, coarse, first, scratch);
    score_tile(tile);
    HWY_DYNAMIC_DISPATCH(normalise)(tile);
  }
  finish_normaliser(run, scratch);
  see(run, fine, scratch);
  std::fill_n(scratch.pooled, run.count * most_blocks, kNone);
  for (int64_t first = 0; first < fine.windows(run.position + run.count); first += kTile) {
    take_tile(run, g, fine, first, scratch);
    score_tile(tile);
    HWY_DYNAMIC_DISPATCH(vote)(tile);
    pool_tile(run, scratch);
  }
}

/// Writes the `top` best of more than `top` blocks: forced ones first, then by score, ties to the
/// lowest index. Ranks are integers, so that even a NaN has one. Most blocks fall behind the best
/// of those before them at once.
void Call::choose(const float* scores, int64_t blocks, uint64_t* order, int32_t* list) const {
  const int64_t own = blocks - 1;
  const int64_t top = selection.top;
  int64_t kept = 0;
  uint64_t bound = std::numeric_limits<uint64_t>::max();
  const auto keep_best = [&] {
    std::nth_element(order, order + top - 1, order + kept);
    kept = top;
    bound = order[top - 1];
  };
  for (int64_t b = 0; b < blocks; ++b) {
    const bool forced = b < selection.init_blocks || b >= own - selection.local_blocks;
    const auto bits = std::bit_cast<uint32_t>(scores[b]);
    const uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
    const uint32_t rank = forced ? 0U : ~ascending;
    const uint64_t ranked = static_cast<uint64_t>(rank) << 32 | static_cast<uint64_t>(b);
    if (ranked > bound) continue;
    order[kept++] = ranked;
    if (kept == room_to_order()) keep_best();
  }
  keep_best();
  for (int64_t i = 0; i < top; ++i) list[i] = static_cast<int32_t>(order[i] & 0xFFFFFFFFU);
  std::sort(list, list + top);
}

void Call::select_run(const Run& run, int64_t g, Scratch& scratch) const {
  const int64_t blocks = run.position / pages.page + 1;
  const auto* flags = sparse.as<uint8_t>() + run.token;
  const bool needed = std::any_of(flags, flags + run.count, [](uint8_t flag) { return flag != 0; });
  const bool all = blocks <= selection.top;
  if (needed && !all) score_blocks(run, g, scratch);
  for (int64_t query = 0; query < run.count; ++query) {
    const int64_t token = run.token + query;
    int32_t& count = counts.row<int32_t>(token)[g];
    count = -1;
    if (flags[query] == 0) continue;
    int32_t* list = lists.as<int32_t>() + token * lists.stride[0] + g * lists.stride[1];
    count = static_cast<int32_t>(std::min<int64_t>(blocks, selection.top));
    if (all) {
      for (int32_t b = 0; b < count; ++b) list[b] = b;
    } else {
      choose(scratch.pooled + query * most_blocks, blocks, scratch.order, list);
    }
  }
}

/// Columns for a query: a power of two up to 16, then whole sixteens, so that heads fill vectors
/// evenly.
int64_t padded_heads(int64_t group) {
  return group > 8 ? (group + 15) / 16 * 16
                   : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(group)));
}

}  // namespace

void block_select(Device& device, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts) {
  CpuDevice& cpu = self(device);
  Call call{.sequences = sequences,
            .q = q,
            .pages = pages,
            .fine = fine,
            .coarse = coarse,
            .selection = selection,
            .sparse = sparse,
            .lists = lists,
            .counts = counts,
            .group = q.dim[1] / pages.head_dim / pages.kv_heads};
  call.heads = padded_heads(call.group);
  const int64_t share = sequences.tokens() * pages.kv_heads / (4 * cpu.threads());
  call.longest = std::clamp<int64_t>(std::min(share, kMostColumns / call.heads), 1, pages.page);
  const Runs runs = cut_runs(cpu, sequences, pages.page, static_cast<int>(call.longest));
  for (int64_t i = 0; i < runs.count; ++i)
    call.most_blocks = std::max<int64_t>(call.most_blocks, runs.data[i].position / pages.page + 1);
  Carver size;
  call.carve(size);
  std::byte* memory = cpu.scratch(1, size.bytes() * cpu.threads());
  const auto item = [&](int64_t i, int thread) {
    Carver carver(memory + thread * size.bytes());
    Scratch scratch = call.carve(carver);
    const int64_t last = runs.count - 1;
    call.select_run(runs.data[last - i / pages.kv_heads], i % pages.kv_heads, scratch);
  };
  cpu.pool().run(runs.count * pages.kv_heads, std::cref(item));
}

}  // namespace sala::cpu
#endif
