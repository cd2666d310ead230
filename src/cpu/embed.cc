#include "cpu/kernels.h"
#include "cpu/work.h"

// embed. Parallel over tokens. A row of a packed table lies strewn over its panel, one element (or
// word of codes) a column: a token touches one cache line per column, 16 or 64 times the bytes it
// wants, which is still nothing beside a matmul with the same table.

namespace sala::cpu {

void embed(Device& device, In ids, const Weight& table, float scale, Out h) {
  for_rows(self(device), h.dim[0], table.cols, [&](int64_t t) {
    const int64_t id = ids.as<int32_t>()[t];
    SALA_CHECK(id >= 0 && id < table.rows, "token {} is {} of {}", t, id, table.rows);
    float* out = h.row<float>(t);
    unpack_row(table, 0, id, {out, static_cast<size_t>(table.cols)});
    for (int64_t i = 0; i < table.cols; ++i) out[i] *= scale;
  });
}

}  // namespace sala::cpu
