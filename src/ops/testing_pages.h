#pragma once

#include "ops/reference.h"
#include "ops/testing.h"

/// What the tests of attention over pages share: shapes, and sequences fed to the whole chain of
/// ops by a schedule.
namespace sala::test {

struct PagesCase {
  std::string name;
  int heads, kv_heads, head_dim, page;
  CompressedKeys fine, coarse;  ///< sizes and strides
  Selection selection;
  std::vector<int64_t> lengths;
  KvType type = KvType::f32;
  float size = 1;  ///< deviation of q
  Compute compute = Compute::f32;

  /// What a result may be off by; `f32` counts where nothing is rounded to bf16.
  double tolerance(double f32) const {
    return compute == Compute::f32 ? f32 : 4 * 0x1p-9 * (1.0 + static_cast<double>(size));
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(head_dim)); }
};

inline CompressedKeys windows(int size, int stride) { return {.size = size, .stride = stride}; }

/// Head counts, head and page sizes, windows that do not divide the page, sequences on both sides
/// of every edge.
inline std::vector<PagesCase> pages_cases() {
  std::vector<PagesCase> all;
  for (const KvType type : kKvTypes) {
    const std::string suffix = fmt::format("_{}", name_of(type));
    all.push_back({"tiny" + suffix,
                   4,
                   2,
                   8,
                   16,
                   windows(8, 4),
                   windows(32, 16),
                   {1, 2, 5},
                   {130, 33, 7, 2, 1, 48},
                   type});
    all.push_back({"page20" + suffix,
                   6,
                   2,
                   64,
                   20,
                   windows(8, 4),
                   windows(32, 16),
                   {1, 1, 3},
                   {133, 60, 20, 19},
                   type});
    all.push_back({"page24" + suffix,
                   9,
                   3,
                   16,
                   24,
                   windows(10, 5),
                   windows(40, 20),
                   {2, 0, 4},
                   {200, 25, 96},
                   type});
    all.push_back({"long" + suffix,
                   3,
                   1,
                   8,
                   16,
                   windows(8, 4),
                   windows(32, 16),
                   {1, 3, 20},
                   {1300, 257, 256},
                   type,
                   2});
    all.push_back({"released" + suffix,
                   32,
                   2,
                   128,
                   64,
                   windows(32, 16),
                   windows(128, 64),
                   {1, 1, 3},
                   {200, 65},
                   type});
  }
  // Head sizes that groups of 32 do not divide: less than half of one, one and a half, and odd.
  for (const KvType type : {KvType::int8, KvType::int4})
    for (const int head_dim : {12, 48, 33})
      all.push_back({fmt::format("head{}_{}", head_dim, name_of(type)),
                     4,
                     2,
                     head_dim,
                     15,
                     windows(10, 5),
                     windows(40, 20),
                     {1, 1, 3},
                     {100, 31, 3},
                     type});
  // Products of bf16: head sizes and pages that neither pairs nor vectors divide.
  for (const KvType type : {KvType::bf16, KvType::int8, KvType::int4})
    for (const auto& [head_dim, page] : {std::pair(33, 15), {128, 64}})
      all.push_back({fmt::format("rounded{}_{}", head_dim, name_of(type)),
                     14,
                     2,
                     head_dim,
                     page,
                     page == 64 ? windows(32, 16) : windows(10, 5),
                     page == 64 ? windows(128, 64) : windows(40, 20),
                     {1, 1, 3},
                     {260, 33, 1},
                     type,
                     1,
                     Compute::bf16});
  all.push_back({"wide_group", 20, 1, 8, 16, windows(8, 4), windows(32, 16), {1, 1, 4}, {150, 40}});
  all.push_back({"peaked",
                 4,
                 2,
                 64,
                 16,
                 windows(8, 4),
                 windows(32, 16),
                 {1, 2, 5},
                 {200, 40},
                 KvType::f32,
                 60});
  return all;
}

inline std::string name_of_case(const testing::TestParamInfo<PagesCase>& info) {
  return info.param.name;
}
inline void PrintTo(const PagesCase& c, std::ostream* out) { *out << c.name; }

struct PagesInputs {
  Streams q, k, v, gate, sparse;
};

/// Random tokens; about one in eight attends densely.
inline PagesInputs pages_inputs(Random& random, const PagesCase& c) {
  const int64_t width = static_cast<int64_t>(c.heads) * c.head_dim;
  const int64_t kv_width = static_cast<int64_t>(c.kv_heads) * c.head_dim;
  PagesInputs in{.q = streams(random, c.lengths, width, c.size),
                 .k = streams(random, c.lengths, kv_width),
                 .v = streams(random, c.lengths, kv_width),
                 .gate = streams(random, c.lengths, width, 2),
                 .sparse = streams_of(DType::u8, c.lengths, 1)};
  for (const Tensor& s : in.sparse)
    for (int64_t t = 0; t < s.view().size(); ++t)
      s.view().as<uint8_t>()[t] = random.between(0, 7) == 0 ? 0 : 1;
  return in;
}

/// What a group of channels becomes in pages of `type`, from the definition of its codes.
inline void round_group(KvType type, float* x, int64_t n) {
  const auto f16 = [](float v) { return f16_to_f32(f32_to_f16(v)); };
  const auto [low, high] = std::minmax_element(x, x + n);
  const float minimum = type == KvType::int8 ? 0 : f16(*low);
  const float scale =
      type == KvType::int8 ? f16(std::max(-*low, *high) / 127) : f16((*high - *low) / 15);
  const float least = type == KvType::int8 ? -127 : 0, most = type == KvType::int8 ? 127 : 15;
  const float inverse = scale == 0 ? 0 : 1 / scale;
  for (int64_t i = 0; i < n; ++i) {
    const float code = std::clamp(std::nearbyint((x[i] - minimum) * inverse), least, most);
    x[i] = scale * code + minimum;
  }
}

/// Keys or values as pages of the case's type give them back.
inline Streams stored(const PagesCase& c, const Streams& from) {
  Streams to;
  for (const Tensor& stream : from) {
    const Tensor& copy = to.emplace_back(copy_of(stream));
    for (int64_t t = 0; t < copy.view().dim[0]; ++t)
      for (int64_t g = 0; g < c.kv_heads; ++g) {
        float* x = copy.view().row<float>(t) + g * c.head_dim;
        if (c.type == KvType::bf16)
          for (int i = 0; i < c.head_dim; ++i) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
        if (c.type == KvType::int8) round_group(c.type, x, c.head_dim);
        for (int i = 0; i < c.head_dim && c.type == KvType::int4; i += 32)
          round_group(c.type, x + i, std::min(32, c.head_dim - i));
      }
  }
  return to;
}

/// The pools of one layer for a crowd.
struct PagesMemory {
  PagesMemory(const PagesCase& c, const Crowd& crowd)
      : pages{.type = c.type, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .page = c.page},
        fine(c.fine),
        coarse(c.coarse),
        kv(crowd, pages.page_bytes()),
        fine_field(crowd, page_bytes(fine, pages)),
        coarse_field(crowd, page_bytes(coarse, pages)) {
    pages.field = kv.paged;
    fine.field = fine_field.paged;
    coarse.field = coarse_field.paged;
  }
  bool operator==(const PagesMemory& other) const {
    return kv == other.kv && fine_field == other.fine_field && coarse_field == other.coarse_field;
  }
  KvPages pages;
  CompressedKeys fine, coarse;

 private:
  Field kv, fine_field, coarse_field;
};

/// What the ops made of each token, in the order of its sequence.
struct PagesOutcome {
  Streams chosen;  ///< attention over the chosen blocks, gated
  Streams dense;   ///< attention over all, not gated
  Streams lists;   ///< [length, kv_heads * top], -1 past the count
  Streams counts;
};

/// Whether a case is large and has nothing that the kernels of the CUDA backend do not meet in a
/// smaller one: the emulation takes a while.
inline bool leave_out(const Target& target, const PagesCase& c) {
  if (target.threads != kCuda) return false;
  return c.name.starts_with("long") || c.name.starts_with("released") ||
         (c.name.starts_with("page24") && c.type != KvType::int4) ||
         (c.name.starts_with("rounded") && c.type == KvType::int8);
}

/// One step through kv_append, compress_keys, block_select and attention. Queries and outputs lie
/// in wider rows, as the parts of fused projections do.
inline void run_step(Device& device, const PagesCase& c, const PagesInputs& in, const Step& step,
                     const PagesMemory& memory, PagesOutcome& out) {
  const Sequences sequences = step.sequences();
  const int64_t T = step.tokens();
  const Strided q(gather(in.q, step), 8);
  const Strided k(gather(in.k, step), 3);
  const Strided v(gather(in.v, step), 5);
  const Strided gate(gather(in.gate, step), 2);
  const Tensor sparse = gather(in.sparse, step);
  const Tensor lists(DType::i32, {T, c.kv_heads, c.selection.top});
  const Tensor counts(DType::i32, {T, c.kv_heads});
  kv_append(device, sequences, k.view, v.view, memory.pages);
  compress_keys(device, sequences, memory.pages, memory.fine);
  compress_keys(device, sequences, memory.pages, memory.coarse);
  Selection selection = c.selection;
  selection.compute = c.compute;
  block_select(device, sequences, q.view, memory.pages, memory.fine, memory.coarse, selection,
               window(sparse.view().data, DType::u8, {T}), lists, counts);
  for (int64_t i = 0; i < T * c.kv_heads; ++i) {
    int32_t* list = lists.view().as<int32_t>() + i * c.selection.top;
    std::fill(list + std::max(0, counts.view().as<int32_t>()[i]), list + c.selection.top, -1);
  }
  const Tensor chosen(DType::f32, {T, q.view.dim[1]});
  const Strided dense(T, q.view.dim[1], 6);
  attention(device, sequences, q.view, memory.pages, lists, counts, c.scale(), c.compute, gate.view,
            chosen);
  attention(device, sequences, q.view, memory.pages, {}, {}, c.scale(), c.compute, {}, dense.view);
  scatter(chosen, step, out.chosen);
  scatter(lists, step, out.lists);
  scatter(counts, step, out.counts);
  Tensor packed(DType::f32, {T, q.view.dim[1]});
  for (int64_t t = 0; t < T; ++t)
    std::copy_n(dense.view.row<float>(t), q.view.dim[1], packed.view().row<float>(t));
  scatter(packed, step, out.dense);
}

inline PagesOutcome run(Device& device, const PagesCase& c, const PagesInputs& in,
                        const Crowd& crowd, const Schedule& schedule, const PagesMemory& memory) {
  const int64_t width = static_cast<int64_t>(c.heads) * c.head_dim;
  PagesOutcome out{.chosen = streams_of(DType::f32, c.lengths, width),
                   .dense = streams_of(DType::f32, c.lengths, width),
                   .lists = streams_of(DType::i32, c.lengths, c.kv_heads * c.selection.top),
                   .counts = streams_of(DType::i32, c.lengths, c.kv_heads)};
  for (const auto& pieces : schedule) run_step(device, c, in, crowd.step(pieces), memory, out);
  return out;
}

}  // namespace sala::test
