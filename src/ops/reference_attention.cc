#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "ops/math.h"
#include "ops/reference.h"

namespace sala::reference {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

/// Stores an element, or, where it is `kept`, asserts that it is there.
template <class T>
void put(T& place, T value, bool kept) {
  if (!kept) {
    place = value;
  } else {
    SALA_ASSERT(std::memcmp(&place, &value, sizeof value) == 0,
                "a replayed token gives {} where its page has {}", value, place);
  }
}

/// The pool page that holds page index `index` of sequence b.
int64_t pool_page(const Sequences& sequences, int64_t b, int64_t index) {
  return sequences.page_table.row<int32_t>(b)[index];
}

/// The keys, or the values, of the tokens of one kv head and page.
struct Stored {
  const KvPages& pages;
  uint16_t* grid;    ///< [grid_rows][page_lanes]
  std::byte* codes;  ///< [code_rows][tokens] of keys, [tokens][code_rows] of values
  bool keys;

  int64_t place(int64_t row, int64_t t) const {
    return keys ? pages.place(row, t, pages.page_lanes()) : pages.place(t, row, pages.code_rows());
  }
  template <class T>
  T& code(int64_t row, int64_t t) const {
    return reinterpret_cast<T*>(codes)[place(row, t)];
  }
  uint16_t& scale(int64_t group, int64_t t) const { return grid[group * pages.page_lanes() + t]; }
  uint16_t& minimum(int64_t group, int64_t t) const { return scale(pages.groups() + group, t); }
  /// Which code row holds channel c of int4, and whether in the high nibble.
  int64_t int4_row(int64_t c) const { return c / kInt4Group * 16 + c % 16; }
  static bool int4_high(int64_t c) { return c % kInt4Group >= 16; }

  /// All channels of token t.
  std::vector<float> load(int64_t t) const;
  /// Stores all channels of token t.
  void store(int64_t t, const float* x, bool kept) const;
};

Stored stored(const Sequences& sequences, const KvPages& pages, int64_t b, int64_t g, int64_t u,
              bool keys) {
  const KvHead head = pages.head(pool_page(sequences, b, u / pages.page), g);
  return keys ? Stored{pages, head.key_grid, head.keys, true}
              : Stored{pages, head.value_grid, head.values, false};
}

std::vector<float> Stored::load(int64_t t) const {
  std::vector<float> x(static_cast<size_t>(pages.head_dim));
  const auto d = static_cast<int64_t>(x.size());
  if (pages.type == KvType::f32)
    for (int64_t c = 0; c < d; ++c) x[c] = code<float>(c, t);
  if (pages.type == KvType::bf16)
    for (int64_t c = 0; c < d; ++c) x[c] = bf16_to_f32(code<uint16_t>(c, t));
  for (int64_t group = 0; group < pages.groups(); ++group) {
    const bool int8 = pages.type == KvType::int8;
    const KvGrid numbers{.scale = f16_to_f32(scale(group, t)),
                         .minimum = int8 ? 0 : f16_to_f32(minimum(group, t))};
    const int64_t first = group * pages.group();
    for (int64_t c = first; c < std::min<int64_t>(d, first + pages.group()); ++c) {
      const int nibbles = int8 ? 0 : code<uint8_t>(int4_row(c), t);
      x[c] = numbers.value(int8 ? code<int8_t>(c, t) : int4_high(c) ? nibbles >> 4 : nibbles & 15);
    }
  }
  return x;
}

void Stored::store(int64_t t, const float* x, bool kept) const {
  const int64_t d = pages.head_dim;
  if (pages.type == KvType::f32)
    for (int64_t c = 0; c < d; ++c) put(code<float>(c, t), x[c], kept);
  if (pages.type == KvType::bf16)
    for (int64_t c = 0; c < d; ++c) put(code<uint16_t>(c, t), f32_to_bf16(x[c]), kept);
  for (int64_t group = 0; group < pages.groups(); ++group) {
    const int64_t first = group * pages.group();
    const int64_t last = std::min<int64_t>(d, first + pages.group());
    const KvGrid numbers = grid_of(pages.type, x + first, last - first);
    const auto code_at = [&](int64_t c) {
      return c < last ? code_of(pages.type, numbers, numbers.inverse(), x[c]) : 0;
    };
    put(scale(group, t), f32_to_f16(numbers.scale), kept);
    if (pages.type == KvType::int8) {
      for (int64_t c = first; c < last; ++c)
        put(code<int8_t>(c, t), static_cast<int8_t>(code_at(c)), kept);
    } else {
      put(minimum(group, t), f32_to_f16(numbers.minimum), kept);
      for (int64_t c = first; c < first + 16; ++c)
        put(code<uint8_t>(int4_row(c), t), static_cast<uint8_t>(code_at(c) | code_at(c + 16) << 4),
            kept);
    }
  }
}

/// q.K_u for the key at position u.
double key_product(const Sequences& sequences, const KvPages& pages, int64_t b, int64_t g,
                   int64_t u, const float* q) {
  const std::vector<float> key = stored(sequences, pages, b, g, u, true).load(u % pages.page);
  double sum = 0;
  for (int64_t c = 0; c < pages.head_dim; ++c) sum += static_cast<double>(q[c]) * key[c];
  return sum;
}

/// o += weight * V_u for the value at position u.
void add_value(const Sequences& sequences, const KvPages& pages, int64_t b, int64_t g, int64_t u,
               double weight, std::vector<double>& o) {
  const std::vector<float> value = stored(sequences, pages, b, g, u, false).load(u % pages.page);
  for (int64_t c = 0; c < pages.head_dim; ++c) o[c] += weight * value[c];
}

/// Window j of kv head g, in the page in which it ends.
struct Window {
  DType type;
  std::byte* data;

  float at(int64_t c) const {
    return type == DType::f32 ? reinterpret_cast<const float*>(data)[c]
                              : bf16_to_f32(reinterpret_cast<const uint16_t*>(data)[c]);
  }
  void store(int64_t c, float x, bool kept) const {
    if (type == DType::f32) {
      put(reinterpret_cast<float*>(data)[c], x, kept);
    } else {
      put(reinterpret_cast<uint16_t*>(data)[c], f32_to_bf16(x), kept);
    }
  }
};

Window window_of(const Sequences& sequences, const KvPages& pages, const CompressedKeys& keys,
                 int64_t b, int64_t g, int64_t j) {
  const int64_t page = keys.page_of(j, pages.page);
  const int64_t entry = j - keys.first_window(page, pages.page);
  const DType type = index_type(pages.type);
  return {type, keys.field.data + pool_page(sequences, b, page) * keys.field.stride +
                    (g * keys.capacity(pages.page) + entry) * pages.head_dim * size_of(type)};
}

/// Whether all keys of window j have a frame.
bool has_frames(const Sequences& sequences, const KvPages& pages, const CompressedKeys& keys,
                int64_t b, int64_t j) {
  for (int64_t i = j * keys.stride / pages.page; i <= keys.page_of(j, pages.page); ++i)
    if (!pages.mapped(pool_page(sequences, b, i))) return false;
  return true;
}

/// head_dim^-1/2 q, in the type in which it enters its products.
std::vector<double> scaled(const float* q, const KvPages& pages, Compute compute) {
  const double scale = 1 / std::sqrt(static_cast<double>(pages.head_dim));
  std::vector<double> x(q, q + pages.head_dim);
  for (double& value : x)
    value = compute == Compute::bf16 && pages.type != KvType::f32
                ? bf16_to_f32(f32_to_bf16(static_cast<float>(value) * static_cast<float>(scale)))
                : value * scale;
  return x;
}

/// q.k_j.
double window_score(const Sequences& sequences, const std::vector<double>& q, const KvPages& pages,
                    const CompressedKeys& keys, int64_t b, int64_t g, int64_t j) {
  const Window window = window_of(sequences, pages, keys, b, g, j);
  double sum = 0;
  for (int64_t c = 0; c < pages.head_dim; ++c) sum += q[c] * window.at(c);
  return sum;
}

/// score[j] of every fine window that ends at or before position p.
std::vector<double> fine_scores(const Sequences& sequences, In q, const KvPages& pages,
                                const CompressedKeys& fine, const CompressedKeys& coarse, int64_t b,
                                int64_t t, int g, Compute compute) {
  const int64_t p = sequences.positions.as<int32_t>()[t];
  const int64_t group = q.dim[1] / pages.head_dim / pages.kv_heads;
  std::vector<double> scores(static_cast<size_t>(fine.windows(p + 1)), 0.0);
  std::vector<double> coarse_scores(static_cast<size_t>(coarse.windows(p + 1)));
  if (coarse_scores.empty()) return scores;
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    const std::vector<double> head = scaled(q.row<float>(t) + h * pages.head_dim, pages, compute);
    for (size_t j = 0; j < coarse_scores.size(); ++j)
      coarse_scores[j] =
          window_score(sequences, head, pages, coarse, b, g, static_cast<int64_t>(j));
    const double largest = *std::ranges::max_element(coarse_scores);
    double normaliser = 0;
    for (const double s : coarse_scores) normaliser += std::exp(s - largest);
    for (size_t j = 0; j < scores.size(); ++j) {
      const double s = window_score(sequences, head, pages, fine, b, g, static_cast<int64_t>(j));
      scores[j] += std::exp(s - largest) / normaliser;
    }
  }
  return scores;
}

/// The chosen blocks of block_select, ascending.
std::vector<int32_t> choose(std::vector<double> scores, const Selection& selection) {
  const auto own = static_cast<int64_t>(scores.size()) - 1;
  for (int64_t b = 0; b <= own; ++b)
    if (b < selection.init_blocks || b >= own - selection.local_blocks) scores[b] = -kNone;
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](int32_t x, int32_t y) {
    return scores[x] > scores[y] || (scores[x] == scores[y] && x < y);
  });
  order.resize(std::min<size_t>(order.size(), static_cast<size_t>(selection.top)));
  std::ranges::sort(order);
  return order;
}

/// The positions to which token t at position p attends with kv head g, ascending.
std::vector<int64_t> attended(int64_t p, int page, const In& lists, const In& counts, int64_t t,
                              int64_t g) {
  std::vector<int64_t> positions;
  const int32_t count = lists.empty() ? -1 : counts.row<int32_t>(t)[g];
  const int64_t blocks = count < 0 ? p / page + 1 : count;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t block =
        count < 0 ? i : (lists.as<int32_t>() + t * lists.stride[0] + g * lists.stride[1])[i];
    for (int64_t u = block * page; u < (block + 1) * page && u <= p; ++u) positions.push_back(u);
  }
  return positions;
}

}  // namespace

void kv_append(Device&, const Sequences& sequences, In k, In v, const KvPages& pages) {
  const auto* starts = sequences.starts.as<int32_t>();
  for (int64_t b = 0; b < sequences.count(); ++b)
    for (int64_t t = starts[b]; t < starts[b + 1]; ++t) {
      const int64_t p = sequences.positions.as<int32_t>()[t];
      const bool kept = p < sequences.kept_of(b);
      if (kept && !pages.mapped(pool_page(sequences, b, p / pages.page))) continue;
      for (int64_t g = 0; g < pages.kv_heads; ++g)
        for (const bool keys : {true, false})
          stored(sequences, pages, b, g, p, keys)
              .store(p % pages.page, (keys ? k : v).row<float>(t) + g * pages.head_dim, kept);
    }
}

void compress_keys(Device&, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys) {
  const auto* starts = sequences.starts.as<int32_t>();
  for (int64_t b = 0; b < sequences.count(); ++b) {
    const int64_t count = starts[b + 1] - starts[b];
    if (count == 0) continue;
    const int64_t first = sequences.positions.as<int32_t>()[starts[b]];
    for (int64_t j = keys.windows(first); j < keys.windows(first + count); ++j) {
      const bool kept = j < keys.windows(sequences.kept_of(b));
      if (kept && !has_frames(sequences, pages, keys, b, j)) continue;
      for (int64_t g = 0; g < pages.kv_heads; ++g) {
        const Window window = window_of(sequences, pages, keys, b, g, j);
        std::vector<float> sum(static_cast<size_t>(pages.head_dim));
        for (int64_t u = j * keys.stride; u < j * keys.stride + keys.size; ++u)
          std::ranges::transform(sum, stored(sequences, pages, b, g, u, true).load(u % pages.page),
                                 sum.begin(), std::plus());
        for (int64_t c = 0; c < pages.head_dim; ++c)
          window.store(c, sum[c] * (1.0f / static_cast<float>(keys.size)), kept);
      }
    }
  }
}

std::vector<double> block_scores(const Sequences& sequences, In q, const KvPages& pages,
                                 const CompressedKeys& fine, const CompressedKeys& coarse,
                                 int64_t b, int64_t t, int g, Compute compute) {
  const std::vector<double> scores =
      fine_scores(sequences, q, pages, fine, coarse, b, t, g, compute);
  const int64_t p = sequences.positions.as<int32_t>()[t];
  const int64_t r = pages.page / fine.stride;
  std::vector<double> blocks(static_cast<size_t>(p / pages.page + 1), kNone);
  for (int64_t i = 0; i < static_cast<int64_t>(blocks.size()); ++i) {
    const int64_t last = std::min<int64_t>(i * r + r, static_cast<int64_t>(scores.size()));
    for (int64_t j = std::max<int64_t>(i * r - 1, 0); j < last; ++j)
      blocks[i] = std::max(blocks[i], scores[j]);
  }
  return blocks;
}

void block_select(Device&, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts) {
  const auto* starts = sequences.starts.as<int32_t>();
  for (int64_t b = 0; b < sequences.count(); ++b)
    for (int64_t t = starts[b]; t < starts[b + 1]; ++t)
      for (int g = 0; g < pages.kv_heads; ++g) {
        int32_t& count = counts.row<int32_t>(t)[g];
        count = -1;
        if (sparse.as<uint8_t>()[t] == 0) continue;
        const std::vector<int32_t> chosen = choose(
            block_scores(sequences, q, pages, fine, coarse, b, t, g, selection.compute), selection);
        count = static_cast<int32_t>(chosen.size());
        std::ranges::copy(chosen, lists.as<int32_t>() + t * lists.stride[0] + g * lists.stride[1]);
      }
}

void attention(Device&, const Sequences& sequences, In q, const KvPages& pages, In lists, In counts,
               float scale, Compute compute, In gate, Out o) {
  const auto* starts = sequences.starts.as<int32_t>();
  const int64_t d = pages.head_dim;
  const int64_t heads = q.dim[1] / d;
  std::vector<double> out(static_cast<size_t>(d));
  const bool rounds = compute == Compute::bf16 && pages.type != KvType::f32;
  const auto rounded = [](float x) { return bf16_to_f32(f32_to_bf16(x)); };
  for (int64_t b = 0; b < sequences.count(); ++b)
    for (int64_t t = starts[b]; t < starts[b + 1]; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t g = h / (heads / pages.kv_heads);
        const float* row = q.row<float>(t) + h * d;
        std::vector<float> query(row, row + d);
        if (rounds) std::ranges::transform(query, query.begin(), rounded);
        const std::vector<int64_t> positions =
            attended(sequences.positions.as<int32_t>()[t], pages.page, lists, counts, t, g);
        std::vector<double> weights;
        for (const int64_t u : positions) {
          const double product = key_product(sequences, pages, b, g, u, query.data());
          weights.push_back(product * static_cast<double>(scale));
        }
        const double largest = *std::ranges::max_element(weights);
        double total = 0;
        for (double& w : weights) {
          w = std::exp(w - largest);
          total += w;
          if (rounds) w = rounded(static_cast<float>(w));
        }
        std::ranges::fill(out, 0.0);
        for (size_t i = 0; i < positions.size(); ++i)
          add_value(sequences, pages, b, g, positions[i], weights[i] / total, out);
        for (int64_t c = 0; c < d; ++c) {
          if (!gate.empty())
            out[c] /= 1 + std::exp(-static_cast<double>(gate.row<float>(t)[h * d + c]));
          o.row<float>(t)[h * d + c] = static_cast<float>(out[c]);
        }
      }
}

}  // namespace sala::reference
