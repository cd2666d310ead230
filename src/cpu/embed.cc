#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/work.h"

// embed. Parallel over tokens. A row of a packed table lies strewn over its panel, one element (or
// word of codes) a column: a token touches one cache line per column, 16 or 64 times the bytes it
// wants, which is still nothing beside a matmul with the same table.

namespace sala::cpu {

void embed(Device& device, In ids, In drawn, const Weight& table, float scale, Out h) {
  for_rows(self(device), h.dim[0], table.cols, [&](int64_t t) {
    const int id =
        embedded_row(ids.as<int32_t>(), static_cast<const int32_t*>(drawn.data), drawn.dim[0], t);
    SALA_CHECK(id >= kNoToken && id < table.rows, "token {} is {} of {}", t, id, table.rows);
    const std::span<float> out(h.row<float>(t), static_cast<size_t>(table.cols));
    if (id == kNoToken)
      std::ranges::fill(out, 0.0f);
    else
      unpack_row(table, 0, id, out);
    for (float& x : out) x *= scale;
  });
}

}  // namespace sala::cpu
