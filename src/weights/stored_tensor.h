#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"

namespace sala {

struct GroupedCodes;

/// Element types of files that a weight can be made of; `other` is every type that a file may hold
/// but that cannot be taken. The block types are GGUF's, 32 columns a block:
///   q4_0     { f16 d; u8 q[16] }                    value = d * (q - 8)
///   q4_1     { f16 d; f16 m; u8 q[16] }             value = d * q + m
///   q5_0     { f16 d; u32 high; u8 q[16] }          value = d * (q - 16)
///   q5_1     { f16 d; f16 m; u32 high; u8 q[16] }   value = d * q + m
///   q8_0     { f16 d; i8 q[32] }                    value = d * q
///   iq4_nl   { f16 d; u8 q[16] }                    value = d * table[q]
/// where byte i of q[16] holds column i in its low and column i + 16 in its high nibble, and bit i
/// of `high` is the fifth bit of column i. q2_k to q6_k and iq4_xs have blocks of 256 columns,
/// which superblock.cc describes. int4 and int8 are matrices of several tensors (grouped.h).
enum class StoredType : uint8_t {
  f32,
  f16,
  bf16,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  iq4_nl,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_xs,
  int4,
  int8,
  other
};

std::string_view name_of(StoredType type);
/// Columns of a block; 1 of floats. Not for `other`, int4 and int8.
int64_t block_columns(StoredType type);
/// Bytes of `columns` elements (a multiple of the block); not for `other`, int4 and int8.
int64_t stored_bytes(StoredType type, int64_t columns);

/// One tensor as it lies in a file: row-major, `shape` outermost first (PyTorch's order; GGUF's is
/// reversed on reading). Its reader has checked that `bytes` has exactly the size that type and
/// shape ask for.
struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::string type_name;  ///< what the file calls the type ("BF16", "Q6_K"), for messages
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const MappedFile>
      file;  ///< keeps `bytes` alive; null if the caller of the parser does
  /// Rows of a head whose rows lie in GGUF's order for interleaved RoPE, [d/2][2]: row half * d/2 +
  /// i of a head is its stored row 2i + half. 0: the rows lie in order.
  int64_t interleaved_head = 0;
  /// Of int4 and int8: what lies where; `bytes` are the codes.
  std::shared_ptr<const GroupedCodes> grouped{};

  int64_t elements() const;
  /// Where row n of a matrix lies, counted in rows.
  int64_t stored_row(int64_t n) const {
    if (interleaved_head == 0) return n;
    const int64_t half = interleaved_head / 2, in_head = n % interleaved_head;
    return n - in_head + 2 * (in_head % half) + in_head / half;
  }
};

}  // namespace sala
