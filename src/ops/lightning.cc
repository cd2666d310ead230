#include "ops/lightning.h"

#include "ops/device.h"
#include "tensor/shapes.h"

namespace sala {
namespace {

/// Inside a slot the memory is contiguous; slots may lie apart.
void check_slot(std::string_view name, const In& x) {
  SALA_CHECK(x.stride[2] == x.dim[3] && x.stride[1] == x.dim[2] * x.dim[3],
             "lightning: a slot of {} is not contiguous", name);
}

}  // namespace

void norm_and_turn_heads(Device& device, Out q, Out k, const LightningMemory& memory,
                         const LightningForm& form) {
  const auto turn = [&](Out x, int64_t heads, In norm) {
    if (!norm.empty() || !form.cos.empty())
      device.ops.qk_norm_rope(device, x, static_cast<int>(heads), norm, form.eps, form.cos,
                              form.sin);
  };
  turn(q, memory.state.dim[1], form.q_norm);
  turn(k, memory.keys.dim[1], form.k_norm);
}

void lightning(Device& device, const Sequences& sequences, Out q, Out k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o) {
  Dim T("T");
  Dim S("slots");
  Dim H("heads");
  Dim kv("kv_heads");
  Dim d("d");
  check_sequences("lightning", sequences, T, false);
  SALA_CHECK(memory.cell > 0, "lightning: cell of {} tokens", memory.cell);
  const Shapes shapes("lightning");
  shapes("state", memory.state, {S, H, d, d})("keys", memory.keys, {S, kv, d, memory.cell})(
      "values", memory.values, {S, kv, memory.cell, d})("slopes", form.slopes, {H});
  check_slot("state", memory.state);
  check_slot("keys", memory.keys);
  check_slot("values", memory.values);
  SALA_CHECK(H.value() % kv.value() == 0, "lightning: {} heads, {} kv heads", H.value(),
             kv.value());
  const int64_t width = H.value() * d.value();
  const int64_t kv_width = kv.value() * d.value();
  shapes("q", q, {T, width})("k", k, {T, kv_width})("v", v, {T, kv_width})("o", o, {T, width})
      .optional("q_norm", form.q_norm, {d})
      .optional("k_norm", form.k_norm, {d})
      .optional("cos", form.cos, {T, d.value() / 2})
      .optional("sin", form.sin, {T, d.value() / 2})
      .optional("norm", form.norm, {width})
      .optional("gate", gate, {T, width});
  SALA_CHECK(form.cos.empty() == form.sin.empty() && (form.cos.empty() || d.value() % 2 == 0),
             "lightning: cos and sin come together, for heads of even size");
  SALA_CHECK(o.data != q.data, "lightning: o is q");
  SALA_CHECK(device.ops.lightning != nullptr, "{} has no lightning", device.name());
  device.ops.lightning(device, sequences, q, k, v, memory, form, gate, o);
}

}  // namespace sala
