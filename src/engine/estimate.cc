#include "engine/estimate.h"

#include <algorithm>
#include <optional>
#include <string>

#include "engine/step_work.h"
#include "weights/decode.h"
#include "weights/packed.h"

namespace sala {
namespace {

constexpr int64_t kChunk = 512;  // of RunOptions

/// Tensors of two dimensions are matrices; the embedding is read by rows unless it is the head too.
bool is_embedding(const std::string& name) { return name == "model.embed_tokens.weight"; }
bool is_head(const std::string& name, bool tied) {
  return tied ? is_embedding(name) : name == "lm_head.weight";
}

struct Matrix {
  std::string name;
  WeightType type;
  int64_t bytes;  ///< packed
  int64_t elements;
};

/// The matrix that a tensor is, if it is one that a model can be made of.
std::optional<Matrix> matrix_of(const StoredTensor& tensor) {
  if (const auto packed = parse_packed(tensor))
    return Matrix{packed->parts, packed->type, static_cast<int64_t>(tensor.bytes.size()),
                  packed->elements()};
  if (tensor.shape.size() != 2 || tensor.type == StoredType::other) return {};
  const WeightType type = weight_type(tensor);
  const int64_t panels = (tensor.shape[0] + kPanel - 1) / kPanel;
  return Matrix{tensor.name, type, panels * panel_bytes(type, tensor.shape[1]), tensor.elements()};
}

}  // namespace

Estimate::Estimate(const ModelFiles& files, const Machine& machine)
    : config_(files.config),
      available_(machine.available),
      read_rate_(machine.limits.read),
      f32_rate_(machine.many.f32) {
  for (const StoredTensor& tensor : files.weights.tensors()) {
    const auto matrix = matrix_of(tensor);
    if (!matrix) continue;
    const auto& [name, type, bytes, elements] = *matrix;
    const double operations = 2.0 * static_cast<double>(elements);
    // One row reads the weights from memory and multiplies them: the slower of the two.
    const double one = std::max(static_cast<double>(bytes) / machine.limits.read,
                                operations / machine.one.of(type));
    weight_bytes_ += bytes;
    if (is_head(name, config_.tied)) {
      head_seconds_ = one;
    } else if (!is_embedding(name)) {
      row_seconds_ += operations / machine.many.of(type);
      step_seconds_ += one;
    }
  }
  const int64_t heads = std::max(int64_t{config_.attention.heads} * config_.attention.head_dim,
                                 int64_t{config_.lightning.heads} * config_.lightning.head_dim);
  const int64_t widest = std::max(config_.intermediate, 6 * heads);
  workspace_ = int64_t{sizeof(float)} * (kChunk * (3 * config_.hidden + widest) + config_.vocab);
}

MemoryUse Estimate::memory(KvType kv, int64_t tokens) const {
  return memory_of(cache_specs(config_, kv), config_.page(), tokens);
}

int64_t Estimate::context(KvType kv, int64_t sequences, int64_t most) const {
  const int64_t left = available_ - weight_bytes_ - workspace_;
  const int64_t page = config_.page();
  int64_t low = 0, high = most / page + 1;  // pages: `low` fit, `high` do not or are too many
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (memory(kv, middle * page).total() <= left / sequences ? low : high) = middle;
  }
  return low * page;
}

double Estimate::token_seconds(KvType kv, int64_t tokens) const {
  return step_seconds_ + head_seconds_ +
         cache_bytes(config_, kv, SparsePolicy::always, tokens, 0) / read_rate_;
}

double Estimate::prompt_seconds(int64_t tokens) const {
  return static_cast<double>(tokens) * row_seconds_ + head_seconds_ +
         mixing_operations(config_, SparsePolicy::always, 0, tokens) / f32_rate_;
}

}  // namespace sala
