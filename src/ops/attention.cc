#include "ops/attention.h"

#include <algorithm>

#include "ops/device.h"
#include "tensor/shapes.h"

namespace sala {
namespace {

void check_field(std::string_view op, std::string_view name, const Paged& field, int64_t bytes,
                 int64_t alignment) {
  SALA_CHECK(field.data != nullptr, "{}: {} are absent", op, name);
  SALA_CHECK(field.stride >= bytes && field.stride % alignment == 0,
             "{}: pages of {} are {} bytes apart and take {}", op, name, field.stride, bytes);
}

void check_pages(std::string_view op, const KvPages& pages) {
  SALA_CHECK(pages.kv_heads > 0 && pages.head_dim > 0 && pages.page > 0,
             "{}: pages of {} heads, head size {}, {} tokens", op, pages.kv_heads, pages.head_dim,
             pages.page);
  check_field(op, "keys and values", pages.field, pages.page_bytes(),
              std::max(2, pages.code_bytes()));
  Dim P("pool pages");
  Shapes(op).optional("frames", pages.frames, {P}, DType::i32);
}

void check_keys(std::string_view op, std::string_view name, const CompressedKeys& keys,
                const KvPages& pages) {
  SALA_CHECK(keys.size > 0 && keys.stride > 0, "{}: {} of {} tokens every {}", op, name, keys.size,
             keys.stride);
  check_field(op, name, keys.field, page_bytes(keys, pages), size_of(index_type(pages.type)));
}

/// The columns of q: whole heads, a whole number of them for each kv head.
void check_heads(std::string_view op, const Dim& width, const KvPages& pages) {
  SALA_CHECK(width.value() % (static_cast<int64_t>(pages.head_dim) * pages.kv_heads) == 0,
             "{}: q has {} columns for {} kv heads of size {}", op, width.value(), pages.kv_heads,
             pages.head_dim);
}

}  // namespace

void kv_append(Device& device, const Sequences& sequences, In k, In v, const KvPages& pages) {
  Dim T("T");
  check_sequences("kv_append", sequences, T, true);
  check_pages("kv_append", pages);
  const int64_t width = static_cast<int64_t>(pages.kv_heads) * pages.head_dim;
  Shapes("kv_append")("k", k, {T, width})("v", v, {T, width});
  SALA_CHECK(device.ops.kv_append != nullptr, "{} has no kv_append", device.name());
  device.ops.kv_append(device, sequences, k, v, pages);
}

void compress_keys(Device& device, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys) {
  Dim T("T");
  check_sequences("compress_keys", sequences, T, true);
  check_pages("compress_keys", pages);
  check_keys("compress_keys", "keys", keys, pages);
  SALA_CHECK(device.ops.compress_keys != nullptr, "{} has no compress_keys", device.name());
  device.ops.compress_keys(device, sequences, pages, keys);
}

void block_select(Device& device, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts) {
  Dim T("T");
  Dim width("heads * head_dim");
  check_sequences("block_select", sequences, T, true);
  check_pages("block_select", pages);
  check_keys("block_select", "fine keys", fine, pages);
  check_keys("block_select", "coarse keys", coarse, pages);
  SALA_CHECK(fine.stride <= pages.page, "block_select: fine windows {} tokens apart in pages of {}",
             fine.stride, pages.page);
  SALA_CHECK(selection.top > 0 && selection.init_blocks >= 0 && selection.local_blocks >= 0,
             "block_select: top {}, {} first and {} local blocks", selection.top,
             selection.init_blocks, selection.local_blocks);
  Shapes("block_select")("q", q, {T, width})("sparse", sparse, {T}, DType::u8)(
      "lists", lists, {T, pages.kv_heads, selection.top}, DType::i32)(
      "counts", counts, {T, pages.kv_heads}, DType::i32);
  check_heads("block_select", width, pages);
  SALA_CHECK(device.ops.block_select != nullptr, "{} has no block_select", device.name());
  device.ops.block_select(device, sequences, q, pages, fine, coarse, selection, sparse, lists,
                          counts);
}

void attention(Device& device, const Sequences& sequences, In q, const KvPages& pages, In lists,
               In counts, float scale, Compute compute, In gate, Out o) {
  Dim T("T");
  Dim top("top");
  Dim width("heads * head_dim");
  check_sequences("attention", sequences, T, true);
  check_pages("attention", pages);
  SALA_CHECK(lists.empty() == counts.empty(), "attention: lists and counts come together");
  Shapes("attention")("q", q, {T, width})("o", o, {T, width})
      .optional("gate", gate, {T, width})
      .optional("lists", lists, {T, pages.kv_heads, top}, DType::i32)
      .optional("counts", counts, {T, pages.kv_heads}, DType::i32);
  check_heads("attention", width, pages);
  SALA_CHECK(compute != Compute::int8, "attention: computes in f32 or bf16");
  SALA_CHECK(device.ops.attention != nullptr, "{} has no attention", device.name());
  device.ops.attention(device, sequences, q, pages, lists, counts, scale, compute, gate, o);
}

}  // namespace sala
