#include "ops/basic.h"

#include "ops/device.h"
#include "tensor/shapes.h"

namespace sala {

void embed(Device& device, In ids, In drawn, const Weight& table, float scale, Out h) {
  Dim T("T");
  Dim N("N");
  Shapes("embed")("ids", ids, {T}, DType::i32)("h", h, {T, table.cols})
      .optional("drawn", drawn, {N}, DType::i32);
  SALA_CHECK(table.data != nullptr && !table.paired, "embed: the table is absent or paired");
  SALA_CHECK(device.ops.embed != nullptr, "{} has no embed", device.name());
  device.ops.embed(device, ids, drawn, table, scale, h);
}

void residual_norm(Device& device, Out h, In a, float scale, In w, float eps, Out x) {
  Dim T("T");
  Dim D("D");
  Shapes("residual_norm")("h", h, {T, D})("w", w, {D})("x", x, {T, D}).optional("a", a, {T, D});
  SALA_CHECK(a.empty() || x.data != h.data, "residual_norm: x is h although a is given");
  SALA_CHECK(device.ops.residual_norm != nullptr, "{} has no residual_norm", device.name());
  device.ops.residual_norm(device, h, a, scale, w, eps, x);
}

void matmul(Device& device, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y) {
  Dim T("T");
  SALA_CHECK(w.data != nullptr, "matmul: the weight is absent");
  Shapes("matmul")("x", x, {T, w.cols})("y", y, {T, w.rows});
  SALA_CHECK(w.paired == (epilogue == Epilogue::swiglu),
             "matmul: swiglu takes a paired weight and none another; this one is {}",
             w.paired ? "paired" : "not paired");
  SALA_CHECK(w.cols % column_unit(w.type) == 0, "matmul: {} columns of {}, not a multiple of {}",
             w.cols, name_of(w.type), column_unit(w.type));
  SALA_CHECK(device.ops.matmul != nullptr, "{} has no matmul", device.name());
  device.ops.matmul(device, x, w, epilogue, compute, y);
}

void rope_table(Device& device, In positions, In inverse_frequency, RopeFactor factor, Out cos,
                Out sin) {
  Dim T("T");
  Dim half("half");
  Shapes("rope_table")("positions", positions, {T}, DType::i32)(
      "inverse_frequency", inverse_frequency, {half})("cos", cos, {T, half})("sin", sin, {T, half});
  SALA_CHECK(device.ops.rope_table != nullptr, "{} has no rope_table", device.name());
  device.ops.rope_table(device, positions, inverse_frequency, factor, cos, sin);
}

void qk_norm_rope(Device& device, Out x, int heads, In w, float eps, In cos, In sin) {
  Dim T("T");
  Dim width("heads * d");
  const Shapes shapes("qk_norm_rope");
  shapes("x", x, {T, width});
  SALA_CHECK(heads > 0 && width.value() % heads == 0, "qk_norm_rope: {} columns in {} heads",
             width.value(), heads);
  const int64_t d = width.value() / heads;
  shapes.optional("w", w, {d});
  SALA_CHECK(cos.empty() == sin.empty(), "qk_norm_rope: cos and sin come together");
  SALA_CHECK(cos.empty() || d % 2 == 0, "qk_norm_rope: a head of odd size {}", d);
  shapes.optional("cos", cos, {T, d / 2}).optional("sin", sin, {T, d / 2});
  SALA_CHECK(device.ops.qk_norm_rope != nullptr, "{} has no qk_norm_rope", device.name());
  device.ops.qk_norm_rope(device, x, heads, w, eps, cos, sin);
}

}  // namespace sala
