#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "cpu/attention_block.h"
#include "cpu/kernels.h"
#include "cpu/rows-inl.h"
#include "cpu/work.h"

// Softmax attention over blocks of keys. The unit of the arithmetic is a row
// (one head of one query) and a block: scores, running maximum, weights,
// values, each in an order fixed by the row and the block's absolute position.
// Rows that look at the same block in the same item share its loads and nothing
// else. 4 d flops a row and key, 2 d elements read a key.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

/// Scales the scores of one row, hides those of keys that it may not see, and
/// returns the largest.
HWY_INLINE float scale_scores(float* HWY_RESTRICT scores, int64_t visible, float scale) {
  const Floats d;
  const int64_t step = lanes();
  const auto none = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto top = none;
  for (int64_t j = 0; j < visible; j += step) {
    auto s = hn::Mul(hn::LoadU(d, scores + j), hn::Set(d, scale));
    if (j + step > visible)
      s = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(visible - j)), s, none);
    hn::StoreU(s, d, scores + j);
    top = hn::Max(top, s);
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

/// Turns the scores of one row into exp(score - largest) and returns their sum.
HWY_INLINE float exponentiate(float* HWY_RESTRICT scores, int64_t visible, float largest) {
  const Floats d;
  auto total = hn::Zero(d);
  for (int64_t j = 0; j < visible; j += lanes()) {
    const auto p = exp(d, hn::Sub(hn::LoadU(d, scores + j), hn::Set(d, largest)));
    hn::StoreU(p, d, scores + j);
    total = hn::Add(total, p);
  }
  return sum_lanes(d, total);
}

/// Turns scores into weights, row by row in loops whose rows overlap: a row
/// alone is one long chain.
void weigh(const AttendedBlock& block) {
  const int64_t width = block.pages->page_lanes();
  float* HWY_RESTRICT rescale = block.rescale;
  for (int64_t i = 0; i < block.rows; ++i) {
    float& largest = block.softmax.largest[block.state[i]];
    const float top = scale_scores(block.scores + i * width, block.visible[i], block.scale);
    const float now = HWY_MAX(largest, top);
    rescale[i] = largest - now;
    largest = now;
  }
  for_each_lane(block.rows, [&](auto d, int64_t i) {
    hn::StoreU(exp(d, hn::LoadU(d, rescale + i)), d, rescale + i);
  });
  for (int64_t i = 0; i < block.rows; ++i) {
    const int32_t row = block.state[i];
    float& sum = block.softmax.sum[row];
    sum = sum * rescale[i] +
          exponentiate(block.scores + i * width, block.visible[i], block.softmax.largest[row]);
  }
}

/// Codes as f32.
template <class D>
HWY_INLINE hn::Vec<D> load_codes(D d, const int8_t* codes) {
  const hn::Rebind<int8_t, D> narrow;
  const hn::Rebind<int32_t, D> wide;
  return hn::ConvertTo(d, hn::PromoteTo(wide, hn::LoadU(narrow, codes)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_nibbles(D d, const uint8_t* codes, bool high) {
  const hn::Rebind<uint8_t, D> narrow;
  const hn::Rebind<int32_t, D> wide;
  const auto bytes = hn::PromoteTo(wide, hn::LoadU(narrow, codes));
  return hn::ConvertTo(d, high ? hn::ShiftRight<4>(bytes) : hn::And(bytes, hn::Set(wide, 15)));
}

/// The scales and minima of a block as f32.
void read_grid(const AttendedBlock& block, const uint16_t* grid) {
  const Floats d;
  const int64_t count = int64_t{block.pages->grid_rows()} * block.pages->page_lanes();
  for (int64_t i = 0; i < count; i += lanes())
    hn::StoreU(load_half(d, grid + i), d, block.grid + i);
}

/// Decodes the first `columns` tokens of K^T from int8 or int4.
void decode_keys(const AttendedBlock& block, int64_t columns) {
  const Floats d;
  const KvPages& pages = *block.pages;
  const int64_t width = pages.page_lanes();
  read_grid(block, block.head.key_grid);
  for (int64_t g = 0; g < pages.groups(); ++g) {
    const int64_t first = g * pages.group();
    const int64_t count = HWY_MIN(pages.group(), pages.head_dim - first);
    for (int64_t j = 0; j < columns; j += lanes()) {
      float* to = block.wide + first * width + j;
      const auto scale = hn::LoadU(d, block.grid + g * width + j);
      if (pages.type == KvType::int8) {
        const auto* codes = reinterpret_cast<const int8_t*>(block.head.keys) + j;
        for (int64_t c = 0; c < count; ++c)
          hn::StoreU(hn::Mul(load_codes(d, codes + c * width), scale), d, to + c * width);
      } else {
        const auto minimum = hn::LoadU(d, block.grid + (pages.groups() + g) * width + j);
        const auto* codes =
            reinterpret_cast<const uint8_t*>(block.head.keys) + g * kInt4Group / 2 * width + j;
        for (int64_t c = 0; c < count; ++c) {
          const auto code = load_nibbles(d, codes + c % 16 * width, c >= 16);
          hn::StoreU(hn::MulAdd(code, scale, minimum), d, to + c * width);
        }
      }
    }
  }
}

/// Decodes the first `tokens` rows of V from int8 or int4.
void decode_values(const AttendedBlock& block, int64_t tokens) {
  const KvPages& pages = *block.pages;
  read_grid(block, block.head.value_grid);
  for (int64_t t = 0; t < tokens; ++t) {
    float* to = block.wide + t * pages.head_dim;
    const float* scale = block.grid + t;
    if (pages.type == KvType::int8) {
      const auto* codes = reinterpret_cast<const int8_t*>(block.head.values) + t * pages.head_dim;
      for_each_lane(pages.head_dim, [&](auto d, int64_t c) {
        hn::StoreU(hn::Mul(load_codes(d, codes + c), hn::Set(d, *scale)), d, to + c);
      });
      continue;
    }
    const Floats d;
    const float* minimum = scale + int64_t{pages.groups()} * pages.page_lanes();
    const auto* codes =
        reinterpret_cast<const uint8_t*>(block.head.values) + int64_t{pages.code_rows()} * t;
    for (int64_t g = 0; g < pages.groups(); ++g, codes += kInt4Group / 2, to += kInt4Group) {
      const auto s = hn::Set(d, scale[g * pages.page_lanes()]);
      const auto m = hn::Set(d, minimum[g * pages.page_lanes()]);
      for (int64_t i = 0; i < kInt4Group / 2; i += lanes()) {
        hn::StoreU(hn::MulAdd(load_nibbles(d, codes + i, false), s, m), d, to + i);
        hn::StoreU(hn::MulAdd(load_nibbles(d, codes + i, true), s, m), d, to + 16 + i);
      }
    }
  }
}

/// `rows` rows of bf16, which lie in pairs, as f32 rows of `columns` each.
void widen_pairs(const std::byte* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t row = 0; row < rows; row += 2, to += 2 * columns)
    for_each_lane(columns, [&](auto d, int64_t i) {
      const hn::Rebind<uint32_t, decltype(d)> words;
      const auto pairs =
          hn::LoadU(words, reinterpret_cast<const uint32_t*>(from) + row / 2 * columns + i);
      hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(pairs)), d, to + i);
      hn::StoreU(hn::BitCast(d, hn::And(pairs, hn::Set(words, 0xFFFF0000))), d, to + columns + i);
    });
}

/// K^T of a block as f32, and V: as far as `columns` and `tokens` say.
const float* keys_of(const AttendedBlock& block, int64_t columns) {
  const KvPages& pages = *block.pages;
  if (pages.type == KvType::f32) return reinterpret_cast<const float*>(block.head.keys);
  if (pages.type == KvType::bf16) {
    widen_pairs(block.head.keys, pages.head_dim, pages.page_lanes(), block.wide);
  } else {
    decode_keys(block, columns);
  }
  return block.wide;
}
const float* values_of(const AttendedBlock& block, int64_t tokens) {
  const KvPages& pages = *block.pages;
  if (pages.type == KvType::f32) return reinterpret_cast<const float*>(block.head.values);
  if (pages.type == KvType::bf16) {
    widen_pairs(block.head.values, tokens, pages.head_dim, block.wide);
  } else {
    decode_values(block, tokens);
  }
  return block.wide;
}

/// to = from, rounded to bf16 (nearest even), whole vectors of it.
void round_to_bf16(const float* from, int64_t count, float* to) {
  for_each_lane((count + lanes() - 1) / lanes() * lanes(), [&](auto d, int64_t i) {
    const hn::Rebind<uint32_t, decltype(d)> words;
    const auto bits = hn::BitCast(words, hn::LoadU(d, from + i));
    const auto tie = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(words, 0x7FFF)), tie);
    hn::StoreU(hn::BitCast(d, hn::And(rounded, hn::Set(words, 0xFFFF0000))), d, to + i);
  });
}

/// Adds one block to the softmax of its rows.
void attend(const AttendedBlock& block) {
  const int64_t d = block.pages->head_dim;
  const int64_t width = block.pages->page_lanes();
  int64_t most = 0;
  for (int64_t i = 0; i < block.rows; ++i) most = HWY_MAX(most, block.visible[i]);
  const int64_t columns = (most + lanes() - 1) / lanes() * lanes();

  const std::byte* next = block.next == nullptr ? block.head.begin() : block.next;
  Fetch fetch{next, block.next == nullptr ? next : next + block.pages->head_bytes() - 64};
  const Matrix keys{keys_of(block, columns), width};
  for (int64_t first = 0; first < block.rows; first += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, block.rows - first));
    RowTile tile;
    for (int r = 0; r < count; ++r) {
      tile.a[r] = block.q[first + r];
      tile.c[r] = block.scores + (first + r) * width;
    }
    multiply_rows<true>(tile, count, 0, d, keys, columns, fetch);
  }

  weigh(block);
  if (rounds(block.compute, block.pages->type))
    for (int64_t i = 0; i < block.rows; ++i)
      round_to_bf16(block.scores + i * width, block.visible[i], block.scores + i * width);

  const Matrix values{values_of(block, most), d};
  for (int64_t first = 0; first < block.rows; first += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, block.rows - first));
    RowTile tile;
    for (int r = 0; r < count; ++r) {
      tile.a[r] = block.scores + (first + r) * width;
      tile.c[r] = block.softmax.values + block.state[first + r] * d;
      tile.start[r] = block.rescale[first + r];
    }
    accumulate_rows(tile, count, block.visible + first, values, d, fetch);
  }
}

/// Adds row `row` of a finished segment to the total.
void merge_row(const Softmax& segment, const Softmax& total, int64_t row, int64_t head_dim) {
  if (segment.sum[row] == 0.0f) return;
  const float largest = HWY_MAX(total.largest[row], segment.largest[row]);
  const float old = exp(total.largest[row] - largest);
  const float add = exp(segment.largest[row] - largest);
  total.sum[row] = total.sum[row] * old + segment.sum[row] * add;
  total.largest[row] = largest;
  float* HWY_RESTRICT to = total.values + row * head_dim;
  const float* HWY_RESTRICT from = segment.values + row * head_dim;
  for_each_lane(head_dim, [&](auto d, int64_t i) {
    const auto kept = hn::Mul(hn::LoadU(d, to + i), hn::Set(d, old));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), hn::Set(d, add), kept), d, to + i);
  });
}

/// o = values / sum, times sigmoid(gate) where a gate is given.
void finish_row(const Softmax& total, int64_t row, int64_t head_dim, const float* gate,
                float* HWY_RESTRICT o) {
  const float* HWY_RESTRICT values = total.values + row * head_dim;
  const float inverse = total.sum[row] > 0.0f ? 1.0f / total.sum[row] : total.sum[row];
  for_each_lane(head_dim, [&](auto d, int64_t i) {
    auto y = hn::Mul(hn::LoadU(d, values + i), hn::Set(d, inverse));
    if (gate != nullptr) y = hn::Mul(y, sigmoid(d, hn::LoadU(d, gate + i)));
    hn::StoreU(y, d, o + i);
  });
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {
namespace {

HWY_EXPORT(attend);
HWY_EXPORT(weigh);
HWY_EXPORT(merge_row);
HWY_EXPORT(finish_row);

constexpr int64_t kSegment = 16;  ///< blocks
constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
/// Rows of one item: their states and scores stay in the second-level cache.
constexpr int64_t kMostRows = 256;
/// Fewer rows than this would load a block for too little work.
constexpr int64_t kFewestRows = 12;

/// The blocks of one query that an item has still to visit: list[next..end), or
/// next..end themselves when dense.
struct Cursor {
  const int32_t* list = nullptr;
  int64_t next = 0;
  int64_t end = 0;

  bool done() const { return next == end; }
  int64_t block() const { return list == nullptr ? next : list[next]; }
  int64_t segment() const { return block() / kSegment; }
};

/// What one thread works with.
struct Scratch {
  Cursor* cursors;
  Softmax segment, total;
  float* rounded;  ///< [rows][rounded_width]: q in bf16, as f32 or in pairs
  AttendedBlock block;
};

Softmax take_softmax(Carver& carver, int64_t rows, int64_t head_dim) {
  return {.largest = carver.take<float>(rows),
          .sum = carver.take<float>(rows),
          .values = carver.take<float>(rows * head_dim)};
}

/// One call of the op.
struct Call {
  CpuDevice& device;
  const Sequences& sequences;
  In q;
  const KvPages& pages;
  In lists, counts;
  float scale;
  Compute compute;
  In gate;
  Out o;
  int64_t group = 0;    ///< heads of a kv head
  int64_t longest = 0;  ///< queries of a run

  int64_t rows() const { return longest * group; }
  bool rounds() const { return cpu::rounds(compute, pages.type); }
  int64_t rounded_width() const { return (pages.head_dim + 1) / 2 * 2; }
  int64_t own_block(const Run& run) const { return run.position / pages.page; }
  Scratch carve(Carver& carver) const;
  Cursor cursor(const Run& run, int64_t query, int64_t g, int64_t segment) const;
  int64_t next_block(const Run& run, const Scratch& scratch) const;
  void round_queries(const Run& run, int64_t g, const Scratch& scratch) const;
  KvHead head_of(const Run& run, int64_t g, int64_t index) const;
  void visit_block(const Run& run, int64_t g, int64_t index, const Softmax& softmax,
                   Scratch& scratch) const;
  void visit_segment(const Run& run, int64_t g, const Softmax& softmax, Scratch& scratch) const;
  void merge(const Run& run, const Softmax& segment, const Softmax& total) const;
  void finish(const Run& run, int64_t g, const Softmax& total) const;
  void attend_run(const Run& run, int64_t g, Scratch& scratch) const;
  void attend_runs(const Runs& runs) const;
  void attend_segments(const Runs& runs, int64_t segments) const;
};

void reset(const Softmax& softmax, int64_t rows, int64_t head_dim) {
  std::fill_n(softmax.largest, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(softmax.sum, rows, 0.0f);
  std::fill_n(softmax.values, rows * head_dim, 0.0f);
}

Scratch Call::carve(Carver& carver) const {
  Scratch scratch;
  const int64_t d = pages.head_dim;
  const int64_t lanes = pages.page_lanes();
  scratch.cursors = carver.take<Cursor>(longest);
  scratch.segment = take_softmax(carver, rows(), d);
  scratch.total = take_softmax(carver, rows(), d);
  scratch.rounded = carver.take<float>(rounds() ? rows() * rounded_width() : 0);
  AttendedBlock& block = scratch.block;
  block.pages = &pages;
  block.scale = scale;
  block.compute = compute;
  block.q = carver.take<const float*>(rows());
  block.state = carver.take<int32_t>(rows());
  block.visible = carver.take<int64_t>(rows());
  block.scores = carver.take<float>(rows() * lanes);
  block.rescale = carver.take<float>(rows());
  const bool widens = pages.type != KvType::f32;
  block.wide = carver.take<float>(widens ? (d + 1) * lanes + kInt4Group : 0);
  block.grid = carver.take<float>(pages.grid_rows() * lanes);
  return scratch;
}

/// The blocks of a query, or those of one segment where `segment` >= 0.
Cursor Call::cursor(const Run& run, int64_t query, int64_t g, int64_t segment) const {
  const int64_t token = run.token + query;
  const int32_t count = lists.empty() ? -1 : counts.row<int32_t>(token)[g];
  const int64_t first = segment < 0 ? 0 : segment * kSegment;
  const int64_t last =
      segment < 0 ? own_block(run) + 1 : std::min(own_block(run) + 1, first + kSegment);
  if (count < 0) return {.next = std::min(first, last), .end = last};
  const int32_t* list = lists.as<int32_t>() + token * lists.stride[0] + g * lists.stride[1];
  return {.list = list,
          .next = std::lower_bound(list, list + count, first) - list,
          .end = std::lower_bound(list, list + count, last) - list};
}

/// The lowest block at which a cursor stands, or kEnd.
int64_t Call::next_block(const Run& run, const Scratch& scratch) const {
  int64_t index = kEnd;
  for (int64_t query = 0; query < run.count; ++query)
    if (!scratch.cursors[query].done()) index = std::min(index, scratch.cursors[query].block());
  return index;
}

KvHead Call::head_of(const Run& run, int64_t g, int64_t index) const {
  return pages.head(pool_page(sequences, run.sequence, index), g);
}

/// The heads of the run's queries in bf16.
void Call::round_queries(const Run& run, int64_t g, const Scratch& scratch) const {
  if (!rounds()) return;
  const int64_t d = pages.head_dim;
  for (int64_t row = 0; row < run.count * group; ++row) {
    const float* x = q.row<float>(run.token + row / group) + (g * group + row % group) * d;
    float* to = scratch.rounded + row * rounded_width();
    if (in_pairs(compute, pages.type)) {
      round_to_pairs(x, d, reinterpret_cast<uint32_t*>(to));
    } else {
      for (int64_t i = 0; i < d; ++i) to[i] = bf16_to_f32(f32_to_bf16(x[i]));
    }
  }
}

/// One block, for the queries whose cursors stand at it.
void Call::visit_block(const Run& run, int64_t g, int64_t index, const Softmax& softmax,
                       Scratch& scratch) const {
  AttendedBlock& block = scratch.block;
  const int64_t d = pages.head_dim;
  block.rows = 0;
  for (int64_t query = 0; query < run.count; ++query) {
    Cursor& cursor = scratch.cursors[query];
    if (cursor.done() || cursor.block() != index) continue;
    ++cursor.next;
    const int64_t visible =
        std::min<int64_t>(pages.page, run.position + query - index * pages.page + 1);
    const int64_t q_width = rounds() ? rounded_width() : d;
    const float* q_row = rounds() ? scratch.rounded + query * group * q_width
                                  : q.row<float>(run.token + query) + g * group * d;
    for (int64_t h = 0; h < group; ++h) {
      block.q[block.rows] = q_row + h * q_width;
      block.state[block.rows] = static_cast<int32_t>(query * group + h);
      block.visible[block.rows++] = visible;
    }
  }
  const int64_t next = next_block(run, scratch);
  block.head = head_of(run, g, index);
  block.next = next == kEnd ? nullptr : head_of(run, g, next).begin();
  block.softmax = softmax;
  if (in_pairs(compute, pages.type)) {
    bf16_scores(block);
    HWY_DYNAMIC_DISPATCH(weigh)(block);
    bf16_values(block);
  } else {
    HWY_DYNAMIC_DISPATCH(attend)(block);
  }
}

/// The next segment that any cursor stands in, from its start.
void Call::visit_segment(const Run& run, int64_t g, const Softmax& softmax,
                         Scratch& scratch) const {
  reset(softmax, run.count * group, pages.head_dim);
  int64_t segment = -1;
  while (true) {
    const int64_t index = next_block(run, scratch);
    if (index == kEnd) return;
    if (segment >= 0 && index / kSegment != segment) return;
    segment = index / kSegment;
    visit_block(run, g, index, softmax, scratch);
  }
}

void Call::merge(const Run& run, const Softmax& segment, const Softmax& total) const {
  const auto merge_kernel = HWY_DYNAMIC_DISPATCH(merge_row);
  for (int64_t row = 0; row < run.count * group; ++row)
    merge_kernel(segment, total, row, pages.head_dim);
}

void Call::finish(const Run& run, int64_t g, const Softmax& total) const {
  const auto finish_kernel = HWY_DYNAMIC_DISPATCH(finish_row);
  const int64_t d = pages.head_dim;
  for (int64_t row = 0; row < run.count * group; ++row) {
    const int64_t token = run.token + row / group;
    const int64_t column = (g * group + row % group) * d;
    finish_kernel(total, row, d, gate.empty() ? nullptr : gate.row<float>(token) + column,
                  o.row<float>(token) + column);
  }
}

void Call::attend_run(const Run& run, int64_t g, Scratch& scratch) const {
  for (int64_t query = 0; query < run.count; ++query)
    scratch.cursors[query] = cursor(run, query, g, -1);
  round_queries(run, g, scratch);
  reset(scratch.total, run.count * group, pages.head_dim);
  while (next_block(run, scratch) != kEnd) {
    visit_segment(run, g, scratch.segment, scratch);
    merge(run, scratch.segment, scratch.total);
  }
  finish(run, g, scratch.total);
}

/// One item a run and kv head, the longest first.
void Call::attend_runs(const Runs& runs) const {
  Carver size;
  carve(size);
  std::byte* memory = device.scratch(1, size.bytes() * device.threads());
  const auto item = [&](int64_t i, int thread) {
    Carver carver(memory + thread * size.bytes());
    Scratch scratch = carve(carver);
    const int64_t last = runs.count - 1;
    attend_run(runs.data[last - i / pages.kv_heads], i % pages.kv_heads, scratch);
  };
  device.pool().run(runs.count * pages.kv_heads, std::cref(item));
}

/// One item a run, kv head and segment, whose results are merged in a second
/// loop: for a few queries on many threads.
void Call::attend_segments(const Runs& runs, int64_t segments) const {
  Carver size;
  carve(size);
  std::byte* memory = device.scratch(1, size.bytes() * device.threads());
  Carver part_size;
  take_softmax(part_size, rows(), pages.head_dim);
  const int64_t items = runs.count * pages.kv_heads;
  std::byte* parts = device.scratch(2, items * segments * part_size.bytes());
  const auto part = [&](int64_t item, int64_t segment) {
    Carver carver(parts + (item * segments + segment) * part_size.bytes());
    return take_softmax(carver, rows(), pages.head_dim);
  };
  const auto visit = [&](int64_t i, int thread) {
    Carver carver(memory + thread * size.bytes());
    Scratch scratch = carve(carver);
    const Run& run = runs.data[i / segments / pages.kv_heads];
    const int64_t g = i / segments % pages.kv_heads;
    for (int64_t query = 0; query < run.count; ++query)
      scratch.cursors[query] = cursor(run, query, g, i % segments);
    round_queries(run, g, scratch);
    visit_segment(run, g, part(i / segments, i % segments), scratch);
  };
  device.pool().run(items * segments, std::cref(visit));
  const auto combine = [&](int64_t i, int thread) {
    Carver carver(memory + thread * size.bytes());
    const Scratch scratch = carve(carver);
    const Run& run = runs.data[i / pages.kv_heads];
    reset(scratch.total, run.count * group, pages.head_dim);
    for (int64_t segment = 0; segment < segments; ++segment)
      merge(run, part(i, segment), scratch.total);
    finish(run, i % pages.kv_heads, scratch.total);
  };
  device.pool().run(items, std::cref(combine));
}

}  // namespace

void attention(Device& device, const Sequences& sequences, In q, const KvPages& pages, In lists,
               In counts, float scale, Compute compute, In gate, Out o) {
  constexpr int64_t kMostParts = int64_t{32} << 20;  // bytes of partial results
  CpuDevice& cpu = self(device);
  Call call{.device = cpu,
            .sequences = sequences,
            .q = q,
            .pages = pages,
            .lists = lists,
            .counts = counts,
            .scale = scale,
            .compute = compute,
            .gate = gate,
            .o = o,
            .group = q.dim[1] / pages.head_dim / pages.kv_heads};
  const int64_t share = sequences.tokens() * pages.kv_heads / (4 * cpu.threads());
  call.longest = std::max(std::min(share, kMostRows / call.group),
                          (kFewestRows + call.group - 1) / call.group);
  call.longest = std::min<int64_t>(call.longest, pages.page);
  const Runs runs = cut_runs(cpu, sequences, pages.page, static_cast<int>(call.longest));
  if (runs.count == 0) return;
  int64_t blocks = 0;
  for (int64_t i = 0; i < runs.count; ++i)
    blocks = std::max(blocks, call.own_block(runs.data[i]) + 1);
  const int64_t segments = (blocks + kSegment - 1) / kSegment;
  const int64_t items = runs.count * pages.kv_heads;
  Carver parts;
  take_softmax(parts, call.rows(), pages.head_dim);
  if (segments > 1 && cpu.threads() > 1 && items < 4L * cpu.threads() &&
      items * segments * parts.bytes() <= kMostParts) {
    call.attend_segments(runs, segments);
  } else {
    call.attend_runs(runs);
  }
}

}  // namespace sala::cpu
#endif
