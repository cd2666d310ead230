#include "convert.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace sala::halo {
namespace {

/// A student's configuration: the teacher's, with Lightning layers that have the queries' heads.
ModelConfig hybrid_config(const ModelConfig& teacher) {
  if (std::ranges::count(teacher.mixers, MixerKind::attention) != teacher.layers())
    fail(
        "the teacher has layers that are no softmax attention; only a pure transformer can be "
        "converted");
  if (teacher.embed_scale != 1.0f || teacher.logit_divisor != 1.0f ||
      teacher.residual_scale != 1.0f)
    fail("the teacher has muP scalings; only families without them can be converted");
  ModelConfig c = teacher;
  // MiniCPM-SALA's attention has no QK-norm; HypeNet's has.
  c.family = teacher.attention.qk_norm ? "hypenet" : "minicpm_sala";
  c.lightning = {.heads = teacher.attention.heads,
                 .kv_heads = teacher.attention.heads,
                 .head_dim = teacher.attention.head_dim,
                 .scale = 1.0 / std::sqrt(teacher.attention.head_dim),
                 .rope = teacher.attention.rope};
  return c;
}

}  // namespace

Tensor expand_heads(const Tensor& w, int64_t kv_heads, int64_t heads) {
  return w.view({kv_heads, -1, w.size(1)})
      .repeat_interleave(heads / kv_heads, 0)
      .view({-1, w.size(1)});
}

Checkpoint lightning_student(const Checkpoint& teacher, uint64_t seed) {
  torch::manual_seed(static_cast<int64_t>(seed));
  Checkpoint student{.config = hybrid_config(teacher.config), .weights = {}};
  ModelConfig& c = student.config;
  std::ranges::fill(c.mixers, MixerKind::lightning);
  for (const auto& [name, shape] : tensor_shapes(c)) {
    const auto found = teacher.weights.find(name);
    const bool kv = name.ends_with("k_proj.weight") || name.ends_with("v_proj.weight");
    if (found == teacher.weights.end()) {
      const auto on = teacher.weights.begin()->second.options();
      const double bound = 1.0 / std::sqrt(static_cast<double>(c.hidden));
      student.weights[name] = shape.size() == 1
                                  ? torch::ones(shape, on)
                                  : torch::empty(shape).uniform_(-bound, bound).to(on.device());
    } else if (kv) {
      student.weights[name] =
          expand_heads(found->second, teacher.config.attention.kv_heads, c.lightning.heads).clone();
    } else {
      student.weights[name] = found->second.clone();
    }
  }
  return student;
}

Checkpoint hybrid(const Checkpoint& teacher, const Checkpoint& student,
                  const std::vector<int>& kept, const HybridOptions& options) {
  torch::manual_seed(static_cast<int64_t>(options.seed));
  Checkpoint out{.config = hybrid_config(teacher.config), .weights = {}};
  ModelConfig& c = out.config;
  if (student.config.layers() != c.layers())
    fail("the student has {} layers, its teacher {}", student.config.layers(), c.layers());
  std::ranges::fill(c.mixers, MixerKind::lightning);
  for (const int layer : kept) {
    if (layer < 0 || layer >= c.layers())
      fail("layer {} is to be kept; the teacher has layers 0 to {}", layer, c.layers() - 1);
    c.mixers[static_cast<size_t>(layer)] = MixerKind::attention;
  }
  c.attention.rope = teacher.config.attention.rope && !options.nope;
  c.attention.gate = options.gate;
  if (c.family == "minicpm_sala") c.attention.sparse = options.sparse;
  const auto of_kept_mixer = [&](const std::string& name) {
    return std::ranges::any_of(kept, [&](int layer) {
      return name.starts_with(fmt::format("model.layers.{}.self_attn.", layer));
    });
  };
  for (const auto& [name, shape] : tensor_shapes(c)) {
    const Weights& source = of_kept_mixer(name) ? teacher.weights : student.weights;
    const auto found = source.find(name);
    // Only the gates of attention layers come from nowhere.
    out.weights[name] = found != source.end()
                            ? found->second.detach().clone()
                            : (torch::randn(shape) * 0.02).to(source.begin()->second.device());
  }
  return out;
}

}  // namespace sala::halo
