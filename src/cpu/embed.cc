#include "cpu/kernels.h"
#include "cpu/work.h"
#include "ops/reference.h"

// embed. Parallel over tokens. A row of a packed table lies strewn over its panel, one element (or
// word of codes) a column: a token touches one cache line per column, 16 or 64 times the bytes it
// wants, which is still nothing beside a matmul with the same table.

namespace sala::cpu {

void embed(Device& device, In ids, In drawn, const Weight& table, float scale, Out h) {
  for_rows(self(device), h.dim[0], table.cols,
           [&](int64_t t) { reference::embed_row(ids, drawn, table, scale, h, t); });
}

}  // namespace sala::cpu
