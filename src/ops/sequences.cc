#include "ops/sequences.h"

namespace sala {

void check_sequences(std::string_view op, const Sequences& sequences, Dim& T, bool paged) {
  Dim B("B");
  Dim P("P");
  const Shapes shapes(op);
  shapes("positions", sequences.positions, {T}, DType::i32);
  shapes("slots", sequences.slots, {B}, DType::i32);
  shapes("starts", sequences.starts, {B.value() + 1}, DType::i32);
  shapes.optional("kept", sequences.kept, {B}, DType::i32);
  if (paged) shapes("page_table", sequences.page_table, {B, P}, DType::i32);
}

}  // namespace sala
