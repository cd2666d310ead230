#pragma once

#include "ops/kv_type.h"
#include "tensor/tensor.h"

namespace sala {

/// One paged field of one layer: entry p begins at data + p * stride.
struct Paged {
  std::byte* data = nullptr;
  int64_t stride = 0;  ///< bytes
};

/// One kv head's part of a page.
struct KvHead {
  uint16_t* key_grid = nullptr;
  uint16_t* value_grid = nullptr;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;

  const std::byte* begin() const { return reinterpret_cast<const std::byte*>(key_grid); }
};

/// The keys and values of a layer. A page holds, for each kv head in turn,
///   key grid, value grid  [grid_rows][page_lanes] f16: of each token's groups the scales, then the
///                         minima where there are any; none where numbers are stored as such
///   K^T [code_rows][page_lanes] then V [page][code_rows]: numbers or codes; of bf16, rows lie in
///                         pairs, [rows / 2][columns][2], as products of pairs read them
/// page_lanes = page rounded up to 16; token t of the page is column t of the grids and of K^T and
/// row t of V. A code row is a channel; of int4, byte i of group g is row 16 g + i. Pages are zero
/// when handed out.
///
/// A pool page may lie in any entry of the field, its frame, or in none: an op needs the frames of
/// the pages it writes (kv_append), of those whose keys it reads (compress_keys: of its windows;
/// attention: of its blocks), and never looks at others.
struct KvPages {
  Paged field{};
  In frames{};  ///< [pool pages] i32: the frame of each, -1 without one. Empty: page p is entry p
  KvType type = KvType::f32;
  int kv_heads = 0;
  int head_dim = 0;
  int page = 64;  ///< tokens a page

  constexpr int page_lanes() const { return (page + 15) / 16 * 16; }
  /// Channels that share a grid, and how many such groups a head has.
  constexpr int group() const { return type == KvType::int4 ? kInt4Group : head_dim; }
  constexpr int groups() const {
    return type < KvType::int8 ? 0 : (head_dim + group() - 1) / group();
  }
  constexpr int grid_rows() const { return type == KvType::int4 ? 2 * groups() : groups(); }
  constexpr int code_rows() const {
    return type == KvType::int4 ? groups() * kInt4Group / 2 : head_dim;
  }
  constexpr int code_bytes() const {
    return type == KvType::f32 ? 4 : type == KvType::bf16 ? 2 : 1;
  }
  constexpr int64_t grid_bytes() const { return int64_t{2} * grid_rows() * page_lanes(); }
  constexpr int64_t keys_bytes() const { return code_bytes() * padded(code_rows()) * page_lanes(); }
  constexpr int64_t values_bytes() const { return code_bytes() * padded(page) * code_rows(); }
  constexpr int64_t head_bytes() const {
    return (2 * grid_bytes() + keys_bytes() + values_bytes() + 1) / 2 * 2;
  }
  constexpr int64_t page_bytes() const { return kv_heads * head_bytes(); }
  /// Rows of a matrix in memory, and where (row, column) of one with `columns` lies.
  constexpr int64_t padded(int64_t rows) const {
    return type == KvType::bf16 ? (rows + 1) / 2 * 2 : rows;
  }
  constexpr int64_t place(int64_t row, int64_t column, int64_t columns) const {
    return kv_place(type, row, column, columns);
  }

  bool mapped(int64_t p) const { return frames.empty() || frames.as<int32_t>()[p] >= 0; }
  /// Where pool page p lies, which has a frame.
  std::byte* frame(int64_t p) const {
    SALA_CHECK(mapped(p), "page {} has no frame", p);
    return field.data + (frames.empty() ? p : frames.as<int32_t>()[p]) * field.stride;
  }
  /// Kv head g of pool page p.
  KvHead head(int64_t p, int64_t g) const { return head_of(frame(p), g); }
  /// Kv head g of the page that lies in `frame`.
  SALA_HD KvHead head_of(std::byte* frame, int64_t g) const {
    std::byte* data = frame + g * head_bytes();
    return {.key_grid = reinterpret_cast<uint16_t*>(data),
            .value_grid = reinterpret_cast<uint16_t*>(data + grid_bytes()),
            .keys = data + 2 * grid_bytes(),
            .values = data + 2 * grid_bytes() + keys_bytes()};
  }
};

/// One level of compressed keys (Xiao et al. 2025, InfLLM-V2, arXiv 2509.24663): the mean of the
/// stored keys of window j, which covers positions [j * stride, j * stride + size), for each kv
/// head. A window belongs to the page in which it ends. Pool page p holds
/// [kv_heads][capacity()][head_dim] in index_type() of the keys; entry e of page index b is window
/// first_window(b) + e.
struct CompressedKeys {
  Paged field{};
  int size = 0;    ///< tokens a window
  int stride = 0;  ///< tokens between windows

  /// Windows that end in one page, at most.
  constexpr int capacity(int page) const { return (page + stride - 1) / stride; }
  /// The first window that ends at or after the first token of page index b.
  constexpr int64_t first_window(int64_t b, int page) const {
    const int64_t token = b * page - size + 1;
    return token <= 0 ? 0 : (token + stride - 1) / stride;
  }
  /// The page index in which window j ends.
  constexpr int64_t page_of(int64_t j, int page) const { return (j * stride + size - 1) / page; }
  /// Complete windows among the first n tokens of a sequence.
  constexpr int64_t windows(int64_t n) const { return n < size ? 0 : (n - size) / stride + 1; }
};

/// Bytes of a page of compressed keys beside `pages`.
inline int64_t page_bytes(const CompressedKeys& keys, const KvPages& pages) {
  return int64_t{pages.kv_heads} * keys.capacity(pages.page) * pages.head_dim *
         size_of(index_type(pages.type));
}

}  // namespace sala
