#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/lightning.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/lightning_cell.h"
#include "cpu/rows-inl.h"
#include "cpu/work.h"

// Lightning attention, cell by cell. Parallel over sequences and kv heads, then over tokens for
// norm and gate. Every output element is, in this order:
//   s = chain over c of q[c] S[c][v];          s *= lambda^(i+1)
//   p_j = (chain over c of q[c] k_j[c]) * lambda^(i-j);   s = chain over j <= i of p_j v_j[v],
//   begun at s;   o = s * scale
// and of a full cell, S[c][v] = chain over j of (lambda^(cell-1-j) k_j[c]) v_j[v], begun at
// lambda^cell S[c][v]. A decode step reads S once (4 d^2 bytes a head) and about as much again of
// rows.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

/// powers[n] = e^(-slope n) for n in [0, count), evaluated in double. There is room for a whole
/// vector more.
void decay_powers(float slope, int64_t count, float* powers) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> narrow;
  const auto step = static_cast<int64_t>(hn::Lanes(d));
  const auto rate = hn::Set(d, -static_cast<double>(slope));
  for (int64_t n = 0; n < count; n += step) {
    const auto exponent = hn::Mul(rate, hn::Iota(d, static_cast<double>(n)));
    hn::StoreU(hn::DemoteTo(narrow, hn::Exp(d, exponent)), narrow, powers + n);
  }
}

/// Outputs of the tokens of a cell whose keys and values are already among its rows.
void mix(const LightningCell& x) {
  Fetch fetch = no_fetch(x.state);
  const Matrix state{x.state, x.d};
  const Matrix keys{x.keys, x.cell};
  const Matrix values{x.values, x.d};
  for (int64_t begin = 0; begin < x.count; begin += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, x.count - begin));
    const int64_t offset = x.first + begin;
    RowTile from_state, from_keys;
    int64_t length[kTileRows];
    for (int r = 0; r < count; ++r) {
      from_state.a[r] = from_keys.a[r] = x.q + (begin + r) * x.q_stride;
      from_state.c[r] = x.o + (begin + r) * x.o_stride;
      from_state.start[r] = x.powers[offset + r + 1];
      from_keys.c[r] = x.weights + r * x.cell;
      length[r] = offset + r + 1;
    }
    multiply_rows<true>(from_state, count, 0, x.d, state, x.d, fetch);
    // Whole vectors of keys where the memory has them: those behind the last token are computed and
    // not used.
    const int64_t columns = HWY_MIN(x.cell, (offset + count + lanes() - 1) / lanes() * lanes());
    multiply_rows<true>(from_keys, count, 0, x.d, keys, columns, fetch);
    for (int r = 0; r < count; ++r)
      for (int64_t j = 0; j < length[r]; ++j) from_keys.c[r][j] *= x.powers[length[r] - 1 - j];
    for (int r = 0; r < count; ++r) from_state.a[r] = from_keys.c[r];
    accumulate_rows(from_state, count, length, values, x.d, fetch);
    for (int r = 0; r < count; ++r)
      for_each_lane(x.d, [&](auto d, int64_t v) {
        hn::StoreU(hn::Mul(hn::LoadU(d, from_state.c[r] + v), hn::Set(d, x.scale)), d,
                   from_state.c[r] + v);
      });
  }
}

/// Folds a full cell into the state.
void fold(const LightningCell& x) {
  Fetch fetch = no_fetch(x.state);
  const Matrix values{x.values, x.d};
  for (int64_t begin = 0; begin < x.d; begin += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, x.d - begin));
    RowTile tile;
    for (int r = 0; r < count; ++r) {
      float* weights = x.weights + r * x.cell;
      const float* keys = x.keys + (begin + r) * x.cell;
      for (int64_t j = 0; j < x.cell; ++j) weights[j] = keys[j] * x.powers[x.cell - 1 - j];
      tile.a[r] = weights;
      tile.c[r] = x.state + (begin + r) * x.d;
      tile.start[r] = x.powers[x.cell];
    }
    multiply_rows<false>(tile, count, 0, x.cell, values, x.d, fetch);
  }
}

/// Norm over all heads, then the gate; either may be null.
void finish_row(float* o, const float* norm, float eps, const float* gate, int64_t n) {
  if (norm != nullptr) {
    const float inverse = inverse_rms(sum_of_squares(o, n), n, eps);
    for_each_lane(n, [&](auto d, int64_t i) {
      const auto normed = hn::Mul(hn::LoadU(d, o + i), hn::Set(d, inverse));
      hn::StoreU(hn::Mul(normed, hn::LoadU(d, norm + i)), d, o + i);
    });
  }
  if (gate == nullptr) return;
  for_each_lane(n, [&](auto d, int64_t i) {
    hn::StoreU(hn::Mul(hn::LoadU(d, o + i), sigmoid(d, hn::LoadU(d, gate + i))), d, o + i);
  });
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {
namespace {

HWY_EXPORT(decay_powers);
HWY_EXPORT(mix);
HWY_EXPORT(fold);
HWY_EXPORT(finish_row);

/// One call of the op.
struct Call {
  const Sequences& sequences;
  In q, k, v;
  const LightningMemory& memory;
  const LightningForm& form;
  Out o;
  int64_t heads, kv_heads, d;
  int64_t powers_stride;  ///< a table of powers and its padding

  void advance(int64_t sequence, int64_t g, std::byte* scratch) const;
};

/// One sequence and the heads of one kv head. The rows of a cell are written once, before its heads
/// read them.
void Call::advance(int64_t sequence, int64_t g, std::byte* scratch) const {
  const auto* starts = sequences.starts.as<int32_t>();
  const int64_t end = starts[sequence + 1];
  if (starts[sequence] == end) return;
  const int64_t slot = sequences.slots.as<int32_t>()[sequence];
  const int64_t cell = memory.cell;
  const int64_t group = heads / kv_heads;
  float* keys = memory.keys.row<float>(slot) + g * d * cell;
  float* values = memory.values.row<float>(slot) + g * cell * d;
  auto* powers = reinterpret_cast<float*>(scratch);

  int64_t offset = sequences.positions.as<int32_t>()[starts[sequence]] % cell;
  const int64_t longest = std::min(cell, offset + end - starts[sequence]);
  for (int64_t h = 0; h < group; ++h) HWY_DYNAMIC_DISPATCH(decay_powers)
  (form.slopes.as<float>()[g * group + h], longest + 1, powers + h * powers_stride);

  for (int64_t token = starts[sequence]; token < end;) {
    const int64_t count = std::min(cell - offset, end - token);
    for (int64_t i = 0; i < count; ++i) {
      const float* key = k.row<float>(token + i) + g * d;
      for (int64_t c = 0; c < d; ++c) keys[c * cell + offset + i] = key[c];
      std::copy_n(v.row<float>(token + i) + g * d, d, values + (offset + i) * d);
    }
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      const LightningCell x{.d = d,
                            .cell = cell,
                            .first = offset,
                            .count = count,
                            .scale = form.scale,
                            .state = memory.state.row<float>(slot) + h * d * d,
                            .keys = keys,
                            .values = values,
                            .powers = powers + (h - g * group) * powers_stride,
                            .q = q.row<float>(token) + h * d,
                            .q_stride = q.stride[0],
                            .o = o.row<float>(token) + h * d,
                            .o_stride = o.stride[0],
                            .weights = powers + group * powers_stride};
      HWY_DYNAMIC_DISPATCH(mix)(x);
      if (offset + count == cell) HWY_DYNAMIC_DISPATCH(fold)(x);
    }
    token += count;
    offset = (offset + count) % cell;
  }
}

}  // namespace

void lightning(Device& device, const Sequences& sequences, Out q, Out k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o) {
  norm_and_turn_heads(device, q, k, memory, form);
  constexpr int64_t kTileRowsMost = 8;
  CpuDevice& cpu = self(device);
  const Call call{.sequences = sequences,
                  .q = q,
                  .k = k,
                  .v = v,
                  .memory = memory,
                  .form = form,
                  .o = o,
                  .heads = memory.state.dim[1],
                  .kv_heads = memory.keys.dim[1],
                  .d = memory.state.dim[3],
                  .powers_stride = (memory.cell + 1 + 15) / 16 * 16};
  const int64_t floats =
      call.heads / call.kv_heads * call.powers_stride + kTileRowsMost * memory.cell;
  const int64_t bytes = (floats * static_cast<int64_t>(sizeof(float)) + 63) / 64 * 64;
  std::byte* scratch = cpu.scratch(0, bytes * cpu.threads());
  const auto item = [&](int64_t i, int thread) {
    call.advance(i / call.kv_heads, i % call.kv_heads, scratch + thread * bytes);
  };
  cpu.pool().run(sequences.count() * call.kv_heads, std::cref(item));

  if (form.norm.empty() && gate.empty()) return;
  const auto finish = HWY_DYNAMIC_DISPATCH(finish_row);
  const int64_t width = call.heads * call.d;
  for_rows(cpu, o.dim[0], width * 4, [&](int64_t t) {
    finish(o.row<float>(t), form.norm.empty() ? nullptr : form.norm.as<float>(), form.eps,
           gate.empty() ? nullptr : gate.row<float>(t), width);
  });
}

}  // namespace sala::cpu
#endif
