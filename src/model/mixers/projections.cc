#include "model/mixers/projections.h"

#include <vector>

namespace sala {

Projections::Projections(const ModelConfig& config, const Form& form, const std::string& prefix,
                         WeightSource& source)
    : form_(form), eps_(config.norm_eps) {
  const std::string at = prefix + "self_attn.";
  std::vector<std::string> names = {at + "q_proj.weight", at + "k_proj.weight",
                                    at + "v_proj.weight"};
  std::vector<int64_t> rows = {q_width(), kv_width(), kv_width()};
  if (form.gate != nullptr) {
    names.push_back(at + form.gate + ".weight");
    rows.push_back(q_width());
  }
  in_ = source.take_stack(names, rows, config.hidden);
  out_ = source.take_matrix(at + "o_proj.weight", config.hidden, q_width());
  if (form.qk_norm) {
    q_norm_ = source.take_vector(at + "q_norm.weight", form.head_dim);
    k_norm_ = source.take_vector(at + "k_norm.weight", form.head_dim);
  }
}

Projections::Heads Projections::in(Step& step, In x) const {
  const Out mixed = step.arena.take(DType::f32, {x.dim[0], in_.rows});
  matmul(step.device, x, in_, Epilogue::none, step.compute_for(in_), mixed);
  return {
      .q = columns(mixed, 0, q_width()),
      .k = columns(mixed, q_width(), kv_width()),
      .v = columns(mixed, q_width() + kv_width(), kv_width()),
      .gate = form_.gate == nullptr ? In{} : columns(mixed, q_width() + 2 * kv_width(), q_width())};
}

void Projections::norm_and_turn(Step& step, const Heads& heads, const Turn& q_turn,
                                const Turn& k_turn) const {
  if (form_.qk_norm || !q_turn.cos.empty())
    qk_norm_rope(step.device, heads.q, form_.heads, q_norm_.view(), eps_, q_turn.cos, q_turn.sin);
  if (form_.qk_norm || !k_turn.cos.empty())
    qk_norm_rope(step.device, heads.k, form_.kv_heads, k_norm_.view(), eps_, k_turn.cos,
                 k_turn.sin);
}

void Projections::out(Step& step, In o, Out y) const {
  matmul(step.device, o, out_, Epilogue::none, step.compute_for(out_), y);
}

}  // namespace sala
