#pragma once

#include <string_view>

#include "tensor/shapes.h"

namespace sala {

/// The tokens of a step as the ops see them: T tokens of B sequences laid end to end, the tokens of
/// one sequence at consecutive positions. All are device tensors of i32; nothing per sequence is a
/// host scalar.
struct Sequences {
  In positions;   ///< [T] absolute position of each token
  In starts;      ///< [B + 1] first token of each sequence in the step; starts[B] = T
  In page_table;  ///< [B, P] pool page that holds positions [i * page, (i + 1) * page) of a
                  ///< sequence; unused entries are 0
  In slots;       ///< [B] the sequence's slot in state fields
  In kept{};      ///< [B] positions of a sequence below this are in its pages already, keys and
                  ///< compressed keys: a step that replays them writes nothing there. Empty: 0

  int64_t tokens() const { return positions.dim[0]; }
  int64_t count() const { return slots.dim[0]; }
  int64_t kept_of(int64_t b) const { return kept.empty() ? 0 : kept.as<int32_t>()[b]; }
};

/// Checks the shapes of `sequences` at the entry of `op` and binds T. Ops on pages need a page
/// table.
void check_sequences(std::string_view op, const Sequences& sequences, Dim& T, bool paged);

/// One paged field of one layer: entry p (pool page p) begins at data + p * stride.
struct Paged {
  std::byte* data = nullptr;
  int64_t stride = 0;  ///< bytes
  DType type = DType::f32;
};

/// The keys and values of a layer. Pool page p holds, for each kv head g in turn,
///   K^T [head_dim][page_lanes] then V [page][head_dim]
/// in `field.type` (f32 or bf16), page_lanes = page rounded up to 16; token t of the page is column
/// t of K^T and row t of V. Pages are zero when handed out.
///
/// A pool page may lie in any entry of the field, its frame, or in none: an op needs the frames of
/// the pages it writes (kv_append), of those whose keys it reads (compress_keys: of its windows;
/// attention: of its blocks), and never looks at others.
struct KvPages {
  Paged field;
  In frames{};  ///< [pool pages] i32: the frame of each, -1 without one. Empty: page p is entry p
  int kv_heads = 0;
  int head_dim = 0;
  int page = 64;  ///< tokens a page

  int page_lanes() const { return (page + 15) / 16 * 16; }
  int64_t head_elements() const { return static_cast<int64_t>(head_dim) * (page_lanes() + page); }
  int64_t page_elements() const { return kv_heads * head_elements(); }
  bool mapped(int64_t p) const { return frames.empty() || frames.as<int32_t>()[p] >= 0; }
  /// Where pool page p lies, which has a frame.
  std::byte* frame(int64_t p) const {
    SALA_CHECK(mapped(p), "page {} has no frame", p);
    return field.data + (frames.empty() ? p : frames.as<int32_t>()[p]) * field.stride;
  }
};

/// One level of compressed keys (Xiao et al. 2025, InfLLM-V2, arXiv 2509.24663): the mean of the
/// stored keys of window j, which covers positions [j * stride, j * stride + size), for each kv
/// head. A window belongs to the page in which it ends. Pool page p holds
/// [kv_heads][capacity()][head_dim]; entry e of page index b is window first_window(b) + e.
struct CompressedKeys {
  Paged field;
  int size = 0;    ///< tokens a window
  int stride = 0;  ///< tokens between windows

  /// Windows that end in one page, at most.
  int capacity(int page) const { return (page + stride - 1) / stride; }
  /// The first window that ends at or after the first token of page index b.
  int64_t first_window(int64_t b, int page) const {
    const int64_t token = b * page - size + 1;
    return token <= 0 ? 0 : (token + stride - 1) / stride;
  }
  /// The page index in which window j ends.
  int64_t page_of(int64_t j, int page) const { return (j * stride + size - 1) / page; }
  /// Complete windows among the first n tokens of a sequence.
  int64_t windows(int64_t n) const { return n < size ? 0 : (n - size) / stride + 1; }
};

}  // namespace sala
