#include <algorithm>
#include <cstring>
#include <span>

#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/matmul_kernels.h"
#include "cpu/work.h"
#include "ops/math.h"

// matmul: chooses kernels, packs the activations, cuts the outputs into items for the threads.
//
// An item is a group of panels times a block of rows; within it columns are walked in blocks, so
// that a block of a panel stays in L1 (decoded there, where the kernel wants it decoded) while the
// tiles of the row block pass by, and the row block's columns stay in L2 while the panels of the
// group pass by. Sums wait in L2 between column blocks. None of this changes the order in which an
// output's terms are added, so no result depends on it.

namespace sala::cpu {
namespace {

/// What the units of packed activations hold.
enum class Units : uint8_t { f32, bf16_pairs, int8_quads };

constexpr int64_t kBlockRows = 384;   // rows of a block: 300 KB of activations, 400 KB of sums
constexpr int64_t kGroupPanels = 8;   // panels that share a pass over a row block
constexpr int64_t kF32Columns = 192;  // columns of a block: 24 KiB of L1 for a panel
constexpr int64_t kBf16Columns = 384;
constexpr int64_t kInt8Columns = 512;
constexpr int64_t kStreamTiles = 2;  // so few tiles read panels whole, decoded in registers

/// One call, as all its threads see it.
struct Job {
  In x;
  const Weight& w;
  Compute compute;
  Epilogue epilogue;
  Out y;
  Units units = Units::f32;
  Kernels kernels{};

  int64_t unit_columns = 1;  ///< columns of a unit
  int64_t row_units = 0;     ///< units of a row
  int group = kGroup;        ///< columns of a scale
  int64_t groups = 0;        ///< scales of a row
  int64_t tiles = 0;         ///< of rows
  bool stream = false;       ///< one tile, weights decoded in registers
  int64_t column_block = 0;

  int64_t parts = 1;         ///< panels of one unit of output: 2 of a paired weight
  int64_t output_units = 0;  ///< of 32 outputs
  int64_t group_units = 0;   ///< output units of an item
  int64_t block_tiles = 0;   ///< tiles of an item
  int64_t tile_blocks = 0;
  int64_t c_stride = 0;

  uint32_t* packed = nullptr;  ///< [tiles][row_units][rows of the tile]
  float* scales = nullptr;     ///< [tiles][groups][rows of the tile][2]
  std::byte* threads = nullptr;
  int64_t thread_bytes = 0;

  int64_t tile_begin(int64_t tile) const { return tile * x.dim[0] / tiles; }
};

/// A thread's part of the scratch, for packing or for an item.
struct PackSpace {
  uint32_t* rows;
  int8_t* codes;
  float* scales;
};
struct ItemSpace {
  float* c;
  std::byte* block;
};

PackSpace pack_space(const Job& job, Carver& carver) {
  return {.rows = carver.take<uint32_t>(job.kernels.rows * job.row_units),
          .codes = carver.take<int8_t>(job.w.cols + kGroup),
          .scales = carver.take<float>(2 * job.groups)};
}

ItemSpace item_space(const Job& job, Carver& carver) {
  const int64_t columns = job.column_block;
  const int64_t block =
      job.units == Units::int8_quads ? code_group_bytes(job.w.type, columns) : columns * kPanel * 4;
  return {.c = carver.take<float>(job.block_tiles * job.kernels.rows * job.c_stride),
          .block = carver.take<std::byte>(job.stream ? 0 : block)};
}

void choose_kernels(Job& job) {
  const WeightType type = job.w.type;
  if (job.compute == Compute::int8 && quantised(type)) {
    job.units = Units::int8_quads;
    job.kernels = int8_kernels(type);
#if defined(__x86_64__)
    if (isa() >= Isa::avx2) job.kernels = avx2_int8_kernels(type);
    if (has_vnni()) job.kernels = vnni_kernels(type);
#endif
    return;
  }
  job.kernels = f32_kernels(type);
#if defined(__x86_64__)
  if (job.compute == Compute::bf16 && type == WeightType::bf16 && has_fast_bf16()) {
    job.units = Units::bf16_pairs;
    job.kernels = bf16_kernels();
  }
#endif
}

void plan(Job& job, int threads) {
  const int64_t T = job.x.dim[0];
  const int64_t K = job.w.cols;
  job.unit_columns = job.units == Units::f32 ? 1 : job.units == Units::bf16_pairs ? 2 : 4;
  job.row_units = (K + job.unit_columns - 1) / job.unit_columns;
  if (job.units == Units::int8_quads) job.group = group_columns(job.w.type);
  job.groups = job.compute == Compute::int8 ? (K + job.group - 1) / job.group : 0;
  job.stream = job.kernels.stream != nullptr && T <= kStreamTiles * job.kernels.rows;
  job.tiles = (T + job.kernels.rows - 1) / job.kernels.rows;
  job.column_block = job.stream                       ? K
                     : job.units == Units::f32        ? kF32Columns
                     : job.units == Units::bf16_pairs ? kBf16Columns
                                                      : kInt8Columns;

  job.parts = job.w.paired ? 2 : 1;
  job.output_units = job.w.panels() / job.parts;
  const int64_t wanted = threads == 1 ? 1 : 6 * threads;  // items, for balance
  job.tile_blocks = (T + kBlockRows - 1) / kBlockRows;
  while (job.tile_blocks * job.output_units < wanted && 2 * job.tile_blocks <= job.tiles)
    job.tile_blocks *= 2;
  job.block_tiles = (job.tiles + job.tile_blocks - 1) / job.tile_blocks;
  job.tile_blocks = (job.tiles + job.block_tiles - 1) / job.block_tiles;
  job.group_units =
      std::clamp<int64_t>(job.output_units * job.tile_blocks / wanted, 1, kGroupPanels / job.parts);
  // One line beyond a power of two, so that the rows of a tile fall into different sets of the
  // cache.
  job.c_stride = job.group_units * job.parts * kPanel + 16;
}

void convert_row(const Job& job, const float* x, const PackSpace& space, uint32_t* out) {
  const int64_t K = job.w.cols;
  auto* values = reinterpret_cast<float*>(out);
  switch (job.compute) {
    case Compute::f32:
      std::copy_n(x, K, values);
      break;
    case Compute::bf16:
      if (job.units == Units::bf16_pairs) {
        auto* pairs = reinterpret_cast<uint16_t*>(out);
        for (int64_t k = 0; k < K; ++k) pairs[k] = f32_to_bf16(x[k]);
        if (K % 2 != 0) pairs[K] = 0;
      } else {
        for (int64_t k = 0; k < K; ++k) values[k] = bf16_to_f32(f32_to_bf16(x[k]));
      }
      break;
    case Compute::int8:
      quantise_row(x, K, job.group, space.codes, space.scales);
      if (job.units == Units::int8_quads) {
        std::memcpy(out, space.codes, static_cast<size_t>(K));
      } else {
        for (int64_t k = 0; k < K; ++k)
          values[k] = space.scales[2 * (k / kGroup)] * static_cast<float>(space.codes[k]);
      }
      break;
  }
}

void pack_tile(const Job& job, int64_t tile, int thread) {
  Carver carver(job.threads + thread * job.thread_bytes);
  const PackSpace space = pack_space(job, carver);
  const int64_t first = job.tile_begin(tile);
  const int64_t rows = job.tile_begin(tile + 1) - first;
  uint32_t* out = job.packed + first * job.row_units;
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = job.x.row<float>(first + r);
    convert_row(job, x, space, rows == 1 ? out : space.rows + r * job.row_units);
    if (job.units != Units::int8_quads) continue;
    float* scales = job.scales + first * job.groups * 2;
    for (int64_t g = 0; g < job.groups; ++g)
      std::copy_n(space.scales + 2 * g, 2, scales + (g * rows + r) * 2);
  }
  if (rows == 1) return;
  for (int64_t u = 0; u < job.row_units; ++u)
    for (int64_t r = 0; r < rows; ++r) *out++ = space.rows[r * job.row_units + u];
}

/// Columns [first, first + count) of a panel as the block kernel wants them.
const std::byte* panel_block(const Job& job, int64_t panel, int64_t first, int64_t count,
                             std::byte* space) {
  const std::byte* w = job.w.panel(panel);
  if (job.units == Units::int8_quads) {
    decode_codes(job.w.type, w, first, count, space);
    return space;
  }
  if (job.units == Units::bf16_pairs || job.w.type == WeightType::f32)
    return w + panel_bytes(job.w.type, first);
  decode_panel(job.w.type, w, first, count, reinterpret_cast<float*>(space));
  return space;
}

/// The bytes of a panel that hold the columns of the block at `first`.
std::span<const std::byte> block_bytes(const Job& job, int64_t panel, int64_t first) {
  const int64_t last = std::min(first + job.column_block, job.w.cols);
  if (first >= last) return {};
  const int64_t begin = panel_bytes(job.w.type, first);
  return {job.w.panel(panel) + begin, static_cast<size_t>(panel_bytes(job.w.type, last) - begin)};
}

/// Asks for part i of n of `bytes`, so that they come while the tiles before them are computed.
void prefetch_part(std::span<const std::byte> bytes, int64_t i, int64_t n) {
  const auto lines = static_cast<int64_t>(bytes.size()) / 64;
  for (int64_t line = i * lines / n; line < (i + 1) * lines / n; ++line)
    __builtin_prefetch(bytes.data() + line * 64, 0, 2);
}

/// The sums of panels [panel, panel + panels) for tiles [begin, end), columns in blocks.
void sum_block(const Job& job, int64_t panel, int64_t panels, int64_t begin, int64_t end,
               const ItemSpace& space) {
  const int64_t row0 = job.tile_begin(begin);
  const int64_t passes =
      job.stream && end - begin == 1 ? 1 : panels;  // one tile takes panels side by side
  for (int64_t k = 0; k < job.w.cols; k += job.column_block) {
    const int64_t count = std::min(job.column_block, job.w.cols - k);
    for (int64_t p = 0; p < passes; ++p) {
      const std::byte* w =
          job.stream ? job.w.panel(panel + p) : panel_block(job, panel + p, k, count, space.block);
      const std::span<const std::byte> next = p + 1 < passes
                                                  ? block_bytes(job, panel + p + 1, k)
                                                  : block_bytes(job, panel, k + job.column_block);
      for (int64_t t = begin; t < end; ++t) {
        prefetch_part(next, t - begin, end - begin);
        const int64_t first = job.tile_begin(t);
        const int64_t rows = job.tile_begin(t + 1) - first;
        const Tile tile{
            .rows = static_cast<int>(rows),
            .panels = static_cast<int>(panels / passes),
            .x = job.packed + first * job.row_units + k / job.unit_columns * rows,
            .scales = job.scales == nullptr
                          ? nullptr
                          : job.scales + (first * job.groups + k / job.group * rows) * 2,
            .w = w,
            .panel_stride = job.w.panel_bytes(),
            .count = count,
            .c = space.c + (first - row0) * job.c_stride + p * kPanel,
            .c_stride = job.c_stride,
            .fresh = k == 0};
        (job.stream ? job.kernels.stream : job.kernels.block)(tile);
      }
    }
  }
}

void write_outputs(const Job& job, int64_t unit, int64_t units, int64_t begin, int64_t end,
                   const float* c) {
  for (int64_t t = job.tile_begin(begin); t < job.tile_begin(end); ++t, c += job.c_stride) {
    float* y = job.y.row<float>(t) + unit * kPanel;
    const int64_t outputs = std::min(units * kPanel, job.w.rows - unit * kPanel);
    if (job.epilogue == Epilogue::none) {
      std::copy_n(c, outputs, y);
      continue;
    }
    for (int64_t n = 0; n < outputs; n += kPanel)
      swiglu(c + 2 * n, c + 2 * n + kPanel, std::min<int64_t>(kPanel, outputs - n), y + n);
  }
}

void run_item(const Job& job, int64_t item, int thread) {
  Carver carver(job.threads + thread * job.thread_bytes);
  const ItemSpace space = item_space(job, carver);
  const int64_t begin = item % job.tile_blocks * job.block_tiles;
  const int64_t end = std::min(job.tiles, begin + job.block_tiles);
  const int64_t unit = item / job.tile_blocks * job.group_units;
  const int64_t units = std::min(job.group_units, job.output_units - unit);
  sum_block(job, unit * job.parts, units * job.parts, begin, end, space);
  write_outputs(job, unit, units, begin, end, space.c);
}

void claim_scratch(Job& job, CpuDevice& device) {
  const int64_t T = job.x.dim[0];
  Carver packing;
  pack_space(job, packing);
  Carver summing;
  item_space(job, summing);
  job.thread_bytes = std::max(packing.bytes(), summing.bytes());
  job.packed = reinterpret_cast<uint32_t*>(device.scratch(0, T * job.row_units * 4));
  job.scales = reinterpret_cast<float*>(device.scratch(1, T * job.groups * 8));
  job.threads = device.scratch(2, device.threads() * job.thread_bytes);
}

}  // namespace

void matmul(Device& device, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y) {
  SALA_CHECK((epilogue == Epilogue::swiglu) == w.paired, "swiglu takes a paired weight");
  if (x.dim[0] == 0) return;
  CpuDevice& cpu = self(device);
  Job job{.x = x, .w = w, .compute = compute, .epilogue = epilogue, .y = y};
  choose_kernels(job);
  plan(job, cpu.threads());
  claim_scratch(job, cpu);

  constexpr int64_t kAlone = 16384;  // units that one thread packs before others would have woken
  if (x.dim[0] * job.row_units <= kAlone) {
    for (int64_t tile = 0; tile < job.tiles; ++tile) pack_tile(job, tile, 0);
  } else {
    const auto pack = [&](int64_t tile, int thread) { pack_tile(job, tile, thread); };
    cpu.pool().run(job.tiles, std::cref(pack));
  }
  const int64_t output_groups = (job.output_units + job.group_units - 1) / job.group_units;
  const auto item = [&](int64_t i, int thread) { run_item(job, i, thread); };
  cpu.pool().run(output_groups * job.tile_blocks, std::cref(item));
}

}  // namespace sala::cpu
