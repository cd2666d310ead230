#include "model/step.h"

namespace sala {
namespace {

constexpr int64_t kAlign = 64;

}  // namespace

bool attends_sparsely(SparsePolicy policy, int dense_len, int64_t position, int64_t prompt) {
  switch (policy) {
    case SparsePolicy::always:
      return true;
    case SparsePolicy::per_query:
      return position + 1 >= dense_len;
    case SparsePolicy::hf:
      return (position < prompt ? prompt : position + 1) >= dense_len;
    case SparsePolicy::dense:
      return false;
  }
  return false;
}

void Batch::add(const Hold& hold, std::span<const int> next,
                const std::function<bool(int64_t)>& is_sparse, int64_t logits) {
  const auto first = static_cast<int64_t>(tokens.size());
  const auto count = static_cast<int64_t>(next.size());
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(next[static_cast<size_t>(i)]);
    positions.push_back(static_cast<int32_t>(hold.length() + i));
    sparse.push_back(is_sparse(hold.length() + i) ? 1 : 0);
    if (i >= count - logits) wanted.push_back(static_cast<int32_t>(first + i));
  }
  starts.push_back(static_cast<int32_t>(first + count));
  slots.push_back(hold.slot());
  kept.push_back(static_cast<int32_t>(hold.kept()));
  pages.push_back(hold.pages());
}

int64_t Arena::bytes(DType dtype, std::initializer_list<int64_t> dims) {
  int64_t bytes = size_of(dtype);
  for (const int64_t d : dims) bytes *= d;
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

Out Arena::take(DType dtype, std::initializer_list<int64_t> dims) {
  const int64_t size = bytes(dtype, dims);
  SALA_CHECK(used_ + size <= capacity_,
             "a step needs more than its {} bytes: {} taken, {} asked for", capacity_, used_, size);
  const Out tensor = window(static_cast<void*>(storage_.get() + used_), dtype, dims);
  used_ += size;
  return tensor;
}

Compute Step::compute_for(const Weight& weight) const {
  switch (compute) {
    case ComputeMode::f32:
      return Compute::f32;
    case ComputeMode::bf16:
      return Compute::bf16;
    case ComputeMode::int8:
      return Compute::int8;
    case ComputeMode::automatic:
      break;
  }
  if (quantised(weight.type)) return device.decodes_to_bf16() ? Compute::bf16 : Compute::int8;
  return weight.type == WeightType::bf16 && device.native_bf16() ? Compute::bf16 : Compute::f32;
}

Compute Step::attention_compute() const {
  if (kv == KvType::f32 || compute == ComputeMode::f32) return Compute::f32;
  return compute != ComputeMode::automatic || device.native_bf16() ? Compute::bf16 : Compute::f32;
}

}  // namespace sala
