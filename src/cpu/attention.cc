#include <algorithm>
#include <limits>

#include "cpu/attention_block.h"
#include "cpu/kernels.h"
#include "cpu/work.h"
#include "ops/math.h"

// Softmax attention over blocks of keys: which blocks are visited, in which order, by whom. The
// unit of the arithmetic is a row (one head of one query) and a block (attention_block.h). Rows
// that look at the same block in the same item share its loads and nothing else.

namespace sala::cpu {
namespace {

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
    weigh(block);
    bf16_values(block);
  } else {
    attend(block);
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

void Call::finish(const Run& run, int64_t g, const Softmax& total) const {
  const int64_t d = pages.head_dim;
  for (int64_t row = 0; row < run.count * group; ++row) {
    const int64_t token = run.token + row / group;
    const int64_t column = (g * group + row % group) * d;
    finish_row(total, row, d, gate.empty() ? nullptr : gate.row<float>(token) + column,
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
    merge(scratch.segment, scratch.total, run.count * group, pages.head_dim);
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
      merge(part(i, segment), scratch.total, run.count * group, pages.head_dim);
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
