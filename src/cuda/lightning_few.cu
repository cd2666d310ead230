#include "cuda/lightning_device.h"

// Lightning attention of few tokens a sequence: bound by the reading of the state.

namespace sala::cuda::lightning_kernels {
namespace {

/// Blocks that a multiprocessor shall hold: the shared memory of sm_120 has room for two, and on
/// sm_100 the registers of more would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kFewBlocks = 2;
#else
constexpr int kFewBlocks = 4;
#endif

/// A slice of the state and a tile of tokens.
struct FewShared {
  alignas(16) float state[kMostHead][kColumns];
  alignas(16) Row q[kFew];
  KeyTile tile;
  float weights[kFew][kTile];
  float powers[kMostCell + 1];
};

/// Norms and turns the keys of the step in the tile, the last warps first; the first block of a kv
/// head puts them down.
__device__ inline void turn_keys(const Mix& mix, const Place& at, FewShared& s, const Keys& keys) {
  const bool first = at.slice == 0 && at.h == at.g * mix.group;
#pragma unroll 1
  for (int j = keys.old + kWarps - 1 - warp_of(); j < keys.count; j += kWarps) {
    turn_head(mix.k_turn, keys.token + j, s.tile.keys[j], mix.d);
    if (!first) continue;
    __syncwarp();
    float* to = mix.turned + ((keys.token + j) * mix.kv_heads + at.g) * mix.d;
    for (int c = lane_of(); c < mix.d; c += kWarpThreads) to[c] = s.tile.keys[j][c];
  }
  __syncthreads();  // rows are turned
}

/// Outputs of tokens [token, token + count) of the step, which lie in one cell from `offset` on.
/// The first ones of a block come while its state does, and make the powers meanwhile. Four warps
/// take a token each and multiply the state, while the other four multiply the keys. At the end the
/// last tile of keys and values is still there.
__device__ inline void mix_tokens(const Mix& mix, const Place& at, FewShared& s, int64_t token,
                                  int count, int offset) {
  copy_rows(s.q, count, mix.d, mix.aligned,
            [&](int r) { return mix.q + (token + r) * mix.q_stride + at.h * mix.d; });
  const int row = warp_of() % kFew;
  const bool sums_here = row < count && warp_of() < kFew;
  const bool weights_here = row < count && warp_of() >= kFew;
  float sum = 0;
  for (int first = 0; first < offset + count; first += kTile) {
    if (first > 0) __syncthreads();  // the tile is read
    const Keys keys(at, token - offset, first, least(offset + count - first, kTile));
    keys.copy(mix, at, s.tile);
    commit_copies();
    if (first == 0 && token == at.begin) make_powers(mix, at.h, mix.cell, s.powers);
    wait_copies<0>();
    __syncthreads();  // tiles are there
    if (mix.turned != nullptr) {
      if (first == 0 && warp_of() < count)
        turn_head(mix.q_turn, token + warp_of(), s.q[warp_of()], mix.d);
      turn_keys(mix, at, s, keys);
    }
    if (first == 0 && sums_here) {
#pragma unroll 2
      for (int c = 0; c < whole_fours(mix.d); c += 4) {
        const float4 x = *reinterpret_cast<const float4*>(&s.q[row][c]);
        const float s0 = s.state[c][lane_of()], s1 = s.state[c + 1][lane_of()];
        const float s2 = s.state[c + 2][lane_of()], s3 = s.state[c + 3][lane_of()];
        sum = fmaf(x.w, s3, fmaf(x.z, s2, fmaf(x.y, s1, fmaf(x.x, s0, sum))));
      }
      sum *= s.powers[offset + row + 1];
    }
    const int ahead = offset + row - first;
    if (weights_here) weigh<1>(s.q + row, s.tile.keys, s.powers, mix.d, ahead, s.weights + row);
    __syncthreads();  // weights are there
    if (sums_here) {
      const int seen = ahead + 1 < kTile ? ahead + 1 : kTile;
#pragma unroll 4
      for (int j = 0; j < seen; ++j)
        sum = fmaf(s.weights[row][j], s.tile.values[j][lane_of()], sum);
    }
  }
  const int column = at.slice * kColumns + lane_of();
  if (sums_here && column < mix.d)
    mix.o[(token + row) * mix.o_stride + at.h * mix.d + column] = sum * mix.scale;
}

/// Folds a full cell into the state in shared memory. Its last tile is there.
__device__ inline void fold(const Mix& mix, const Place& at, FewShared& s, int64_t cell_begin) {
#pragma unroll 1
  for (int first = 0; first < mix.cell; first += kTile) {
    const int count = least(mix.cell - first, kTile);
    if (mix.cell > kTile) {
      __syncthreads();  // the tile before is read
      const Keys keys(at, cell_begin, first, count);
      keys.copy(mix, at, s.tile);
      commit_copies();
      wait_copies<0>();
      __syncthreads();  // the tile is there
      if (mix.turned != nullptr) turn_keys(mix, at, s, keys);
    }
    Folded state;
    state.for_each(mix.d, [&](int c, float4& x) {
      x = {s.state[c][lane_of()], s.state[c + 1][lane_of()], s.state[c + 2][lane_of()],
           s.state[c + 3][lane_of()]};
    });
    if (first == 0) state.decay(s.powers[mix.cell]);
#pragma unroll 1
    for (int j = 0; j < count; ++j) state.add(s.tile, j, s.powers[mix.cell - 1 - first - j], mix.d);
    state.for_each(mix.d, [&](int c, const float4& x) {
      s.state[c][lane_of()] = x.x;
      s.state[c + 1][lane_of()] = x.y;
      s.state[c + 2][lane_of()] = x.z;
      s.state[c + 3][lane_of()] = x.w;
    });
  }
}

/// A block is sequence blockIdx.z and slice blockIdx.x of 32 value columns of head blockIdx.y;
/// lanes are columns, but of scores keys. All that the first tokens need is copied at once. Shared
/// memory holds the slice of the state throughout.
__global__ void __launch_bounds__(kThreads, kFewBlocks) mix_few(Mix mix) {
  wait_for_earlier();
  auto& s = shared<FewShared>();
  const Place at(mix, static_cast<int32_t>(blockIdx.z), static_cast<int>(blockIdx.y),
                 static_cast<int>(blockIdx.x));
  if (at.begin == at.end) return;  // the whole block
  float* state = state_of(mix, at);
  copy_columns(s.state, mix.d, at.slice, mix.d, mix.aligned,
               [&](int c) { return state + c * mix.d; });
  for (int c = mix.d + warp_of(); c < whole_fours(mix.d); c += kWarps) s.state[c][lane_of()] = 0;

  bool folded = false;
  int offset = at.offset;
  for (int64_t token = at.begin; token < at.end;) {
    const int count = least(at.end - token, least(mix.cell - offset, kFew));
    mix_tokens(mix, at, s, token, count, offset);
    token += count;
    offset += count;
    if (offset == mix.cell) {
      fold(mix, at, s, token - mix.cell);
      folded = true;
      offset = 0;
    }
    __syncthreads();  // all is read
  }
  const int column = at.slice * kColumns + lane_of();
  if (!folded || column >= mix.d) return;
  for (int c = warp_of(); c < mix.d; c += kWarps) state[c * mix.d + column] = s.state[c][lane_of()];
}

}  // namespace

void mix_few_tokens(Device& device, int64_t sequences, const Mix& mix) {
  launch(device, {.x = slices_of(mix.d), .y = mix.heads, .z = sequences}, kThreads,
         sizeof(FewShared), mix_few, mix);
}

}  // namespace sala::cuda::lightning_kernels
