#include "attention.h"

#include <algorithm>
#include <limits>

namespace sala::halo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;
using torch::indexing::Slice;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Queries of a tile: their scores against some hundred keys stay in a core's cache.
constexpr int64_t kTile = 256;

/// [B, T, H, d] as [B, G, H/G, T, d].
Tensor by_group(const Tensor& x, int64_t groups) {
  return x.view({x.size(0), x.size(1), groups, x.size(2) / groups, x.size(3)})
      .permute({0, 2, 3, 1, 4})
      .contiguous();
}

/// The way back.
Tensor by_token(const Tensor& x) {
  return x.permute({0, 3, 1, 2, 4})
      .reshape({x.size(0), x.size(3), x.size(1) * x.size(2), x.size(4)});
}

/// One tile: the queries [first, end) of the sequences [b, b + sequences), and the keys [0, end).
struct Tile {
  int64_t b, sequences, first, end;
};

std::vector<Tile> tiles(const Tensor& k) {
  const int64_t batch = k.size(0), length = k.size(2);
  // As many sequences as make a whole tile stay in a core's cache; a GPU wants all the work at
  // once.
  const int64_t fit = kTile * kTile / (length * std::min(length, kTile));
  const int64_t sequences = k.is_cuda() ? batch : std::clamp<int64_t>(fit, 1, batch);
  std::vector<Tile> all;
  for (int64_t b = 0; b < batch; b += sequences)
    for (int64_t first = 0; first < length; first += kTile)
      all.push_back({b, std::min(sequences, batch - b), first, std::min(first + kTile, length)});
  return all;
}

/// Operands by group, and what of them a tile takes.
struct Operands {
  Tensor q;       ///< [B, G, R, T, d], times the scale
  Tensor k, v;    ///< [B, G, T, d]
  Tensor chosen;  ///< BlockChoice::chosen, or empty
  int64_t block = 0;
  Tensor causal;  ///< [n, n], n = kTile at most: -infinity where a key comes after its query

  /// Rows of x [B, G, R, T, d] as [b * G, R * n, d].
  static Tensor rows(const Tensor& x, const Tile& t) {
    return x.index({Slice(t.b, t.b + t.sequences), Slice(), Slice(), Slice(t.first, t.end)})
        .reshape({t.sequences * x.size(1), -1, x.size(4)});
  }
  /// Keys or values [b * G, end, d] of x [B, G, T, d].
  static Tensor keys(const Tensor& x, const Tile& t) {
    return x.index({Slice(t.b, t.b + t.sequences), Slice(), Slice(0, t.end)}).flatten(0, 1);
  }

  /// Softmax of the scores, [b * G, R * n, end] in f32 (f64 for f64).
  Tensor probabilities(const Tile& t, const Tensor& tile_q, const Tensor& tile_k) const {
    const int64_t n = t.end - t.first, r = q.size(2);
    Tensor s = torch::bmm(tile_q, tile_k.transpose(1, 2));
    if (s.scalar_type() == torch::kBFloat16) s = s.to(torch::kFloat);
    const Tensor grid = s.view({-1, r, n, t.end});
    grid.narrow(-1, t.first, n).add_(causal.index({Slice(0, n), Slice(0, n)}));
    if (chosen.numel() > 0) {
      const int64_t count = (t.end + block - 1) / block;
      const Tensor some = chosen
                              .index({Slice(t.b, t.b + t.sequences), Slice(), Slice(t.first, t.end),
                                      Slice(0, count)})
                              .flatten(0, 1)
                              .repeat_interleave(block, -1)
                              .narrow(-1, 0, t.end);
      grid.masked_fill_(some.logical_not().unsqueeze(1), -kInfinity);
    }
    return torch::softmax(s, -1);
  }
};

Operands operands(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& chosen,
                  int64_t block) {
  Operands o{.q = q, .k = k, .v = v, .chosen = chosen, .block = block, .causal = {}};
  const int64_t n = std::min(kTile, k.size(2));
  const auto sums = k.scalar_type() == torch::kBFloat16 ? torch::kFloat : k.scalar_type();
  o.causal = torch::full({n, n}, -kInfinity, k.options().dtype(sums)).triu_(1);
  return o;
}

struct Attention : Function<Attention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& chosen, int64_t block, int64_t type) {
    const auto rounded = static_cast<torch::ScalarType>(type);
    const int64_t groups = k.size(2);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    const Operands o = operands(by_group((q * scale).to(rounded), groups),
                                by_group(k.to(rounded), groups).squeeze(2),
                                by_group(v.to(rounded), groups).squeeze(2), chosen, block);
    const Tensor out = torch::empty_like(o.q);
    for (const Tile& t : tiles(o.k)) {
      const Tensor p = o.probabilities(t, Operands::rows(o.q, t), Operands::keys(o.k, t));
      const Tensor y = torch::bmm(p.to(rounded), Operands::keys(o.v, t));
      auto place =
          out.index({Slice(t.b, t.b + t.sequences), Slice(), Slice(), Slice(t.first, t.end)});
      place.copy_(y.view(place.sizes()));
    }
    ctx->save_for_backward({o.q, o.k, o.v, chosen});
    ctx->saved_data["block"] = block;
    ctx->saved_data["scale"] = scale;
    return by_token(out).to(q.scalar_type());
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Operands o =
        operands(saved[0], saved[1], saved[2], saved[3], ctx->saved_data["block"].toInt());
    const auto type = o.q.scalar_type();
    const Tensor g = by_group(grads[0].to(type), o.k.size(1));
    const Tensor dq = torch::empty_like(o.q);
    const auto sums = grads[0].options();
    const Tensor dk = torch::zeros(o.k.sizes(), sums), dv = torch::zeros(o.v.sizes(), sums);
    for (const Tile& t : tiles(o.k)) {
      const Tensor q = Operands::rows(o.q, t), k = Operands::keys(o.k, t),
                   dy = Operands::rows(g, t);
      const Tensor p = o.probabilities(t, q, k);
      const Tensor dp = torch::bmm(dy, Operands::keys(o.v, t).transpose(1, 2)).to(p.scalar_type());
      const Tensor ds = torch::_softmax_backward_data(dp, p, -1, p.scalar_type()).to(type);
      auto place =
          dq.index({Slice(t.b, t.b + t.sequences), Slice(), Slice(), Slice(t.first, t.end)});
      place.copy_(torch::bmm(ds, k).view(place.sizes()));
      const auto add = [&](const Tensor& sum, const Tensor& part) {
        auto to = sum.index({Slice(t.b, t.b + t.sequences), Slice(), Slice(0, t.end)});
        to.add_(part.view(to.sizes()));
      };
      add(dk, torch::bmm(ds.transpose(1, 2), q));
      add(dv, torch::bmm(p.to(type).transpose(1, 2), dy));
    }
    const auto back = grads[0].scalar_type();
    return {by_token(dq).to(back) * ctx->saved_data["scale"].toDouble(),
            by_token(dk.unsqueeze(2)),
            by_token(dv.unsqueeze(2)),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

/// Means over the complete windows of `size` keys every `stride`: k [B, G, T, d] to [B, G, M, d].
Tensor compress(const Tensor& k, int64_t size, int64_t stride) {
  if (k.size(2) < size) return k.narrow(2, 0, 0);
  return k.unfold(2, size, stride).mean(-1);
}

/// bool [n, M]: the windows that have ended at or before positions first, first + 1, ...
Tensor complete(int64_t first, int64_t n, int64_t windows, int64_t size, int64_t stride,
                const torch::TensorOptions& on) {
  const auto integers = on.dtype(torch::kLong);
  const Tensor position = torch::arange(first, first + n, integers).unsqueeze(1);
  return torch::arange(windows, integers) * stride + size <= position + 1;
}

/// Scores [B, G, n, M1] of the fine keys for the queries q [B, G, R, n, d] from position `first`
/// on.
Tensor window_scores(const Tensor& q, const Tensor& fine, const Tensor& coarse, int64_t first,
                     const SparseConfig& s) {
  const int64_t n = q.size(3);
  if (fine.size(2) == 0 || coarse.size(2) == 0)
    return torch::zeros({q.size(0), q.size(1), n, fine.size(2)}, q.options());
  const Tensor seen1 =
      complete(first, n, fine.size(2), s.kernel_size, s.kernel_stride, q.options());
  const Tensor seen2 =
      complete(first, n, coarse.size(2), 4 * s.kernel_size, 4 * s.kernel_stride, q.options());
  const Tensor s2 = torch::matmul(q, coarse.unsqueeze(2).transpose(-1, -2))
                        .masked_fill_(seen2.logical_not(), -kInfinity);
  const Tensor largest = s2.amax(-1, true);
  const Tensor m = torch::where(largest == -kInfinity, torch::zeros_like(largest), largest);
  const Tensor z = (s2 - m).exp_().sum(-1, true);
  const Tensor s1 = torch::matmul(q, fine.unsqueeze(2).transpose(-1, -2));
  const Tensor p = (s1 - m).exp_() / z;
  return p.masked_fill_((seen1 & (z > 0)).logical_not(), 0.0).sum(2);
}

/// Scores of blocks [B, G, n, blocks]: the largest of the windows that overlap a block.
Tensor pool(const Tensor& scores, int64_t blocks, int64_t step) {
  const int64_t wanted = blocks * step + 1;  // window -1 of block 0 included
  const Tensor padded = torch::constant_pad_nd(
      scores, {1, std::max<int64_t>(0, wanted - 1 - scores.size(-1))}, -kInfinity);
  return padded.narrow(-1, 0, wanted).unfold(-1, step + 1, step).amax(-1);
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const BlockChoice& blocks,
                 torch::ScalarType type) {
  // An autograd function takes no undefined tensors.
  const Tensor chosen =
      blocks.chosen.defined() ? blocks.chosen : torch::empty({0}, q.options().dtype(torch::kBool));
  return Attention::apply(q, k, v, chosen, blocks.block, static_cast<int64_t>(type));
}

BlockChoice choose_blocks(const Tensor& query, const Tensor& key, const SparseConfig& s) {
  const torch::NoGradGuard no_grad;
  const int64_t length = key.size(1), groups = key.size(2);
  const int64_t count = (length + s.block_size - 1) / s.block_size;
  const int64_t top = std::min<int64_t>(s.total_blocks(), count);
  const Tensor q = by_group(query / std::sqrt(static_cast<double>(query.size(3))), groups);
  const Tensor k = by_group(key, groups).squeeze(2);
  const Tensor fine = compress(k, s.kernel_size, s.kernel_stride);
  const Tensor coarse = compress(k, 4 * s.kernel_size, 4 * s.kernel_stride);
  const Tensor chosen =
      torch::zeros({key.size(0), groups, length, count}, key.options().dtype(torch::kBool));
  const Tensor index = torch::arange(count, key.options().dtype(torch::kLong));
  for (int64_t first = 0; first < length; first += kTile) {
    const int64_t n = std::min(kTile, length - first);
    const Tensor scores = pool(window_scores(q.narrow(3, first, n), fine, coarse, first, s), count,
                               s.block_size / s.kernel_stride);
    const Tensor own =
        torch::arange(first, first + n, index.options()).unsqueeze(1).floor_divide(s.block_size);
    const Tensor future = index > own;
    const Tensor forced = (index < s.init_blocks) |
                          (index + s.local_blocks() >= own);  // the future is taken out below
    scores.masked_fill_(forced, kInfinity).masked_fill_(future, -kInfinity);
    const Tensor order = std::get<1>(torch::sort(scores, true, -1, true)).narrow(-1, 0, top);
    chosen.narrow(2, first, n).scatter_(-1, order, true).logical_and_(future.logical_not());
  }
  return {chosen, s.block_size};
}

Tensor index_loss(const Tensor& query, const Tensor& key, const SparseConfig& s,
                  const Tensor& weights, torch::ScalarType type) {
  const int64_t length = key.size(1), groups = key.size(2);
  const auto sums = query.scalar_type();
  const Tensor q = by_group(query / std::sqrt(static_cast<double>(query.size(3))), groups).to(type);
  const Tensor keys = by_group(key, groups), k = keys.to(type);
  const Tensor fine =
      compress(keys.squeeze(2), s.kernel_size, s.kernel_stride).unsqueeze(2).to(type);
  Tensor sum = torch::zeros({}, query.options());
  if (fine.size(3) == 0) return sum;
  for (int64_t first = 0; first < length; first += kTile) {
    const int64_t n = std::min(kTile, length - first), end = first + n;
    if (end < s.kernel_size) continue;
    const Tensor some = q.narrow(3, first, n);
    const int64_t windows = (end - s.kernel_size) / s.kernel_stride + 1;
    const Tensor seen =
        complete(first, n, windows, s.kernel_size, s.kernel_stride, query.options());
    Tensor wanted;
    {
      const torch::NoGradGuard no_grad;
      const Tensor future =
          torch::arange(end, seen.options().dtype(torch::kLong)) >
          torch::arange(first, end, seen.options().dtype(torch::kLong)).unsqueeze(1);
      const Tensor read = torch::softmax(torch::matmul(some, k.narrow(3, 0, end).transpose(-1, -2))
                                             .to(sums)
                                             .masked_fill_(future, -kInfinity),
                                         -1)
                              .mean(2);
      wanted = read.unfold(-1, s.kernel_size, s.kernel_stride).sum(-1) * seen;
    }
    // Finite where nothing is seen: what is wanted there is zero.
    const Tensor scores = torch::matmul(some, fine.narrow(3, 0, windows).transpose(-1, -2))
                              .to(sums)
                              .masked_fill(seen.logical_not(), -1e9);
    const Tensor log_p = torch::logsumexp(torch::log_softmax(scores, -1), 2) -
                         std::log(static_cast<double>(q.size(2)));
    sum = sum - ((wanted * log_p).sum(-1) * weights.narrow(1, first, n).unsqueeze(1)).sum();
  }
  return sum / static_cast<double>(groups);
}

}  // namespace sala::halo
