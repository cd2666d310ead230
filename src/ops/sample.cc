#include "ops/sample.h"

#include "ops/device.h"
#include "tensor/shapes.h"

namespace sala {

void sample(Device& device, In logits, In rows, Out tokens) {
  Dim B("B");
  Dim V("V");
  Shapes("sample")("logits", logits, {B, V})("rows", rows,
                                             {B, static_cast<int64_t>(sizeof(SampleRow))},
                                             DType::u8)("tokens", tokens, {B}, DType::i32);
  SALA_CHECK(V.value() >= 1 && V.value() <= kMostVocabulary, "sample: {} tokens, expected 1 to {}",
             V.value(), kMostVocabulary);
  SALA_CHECK(reinterpret_cast<uintptr_t>(rows.data) % alignof(SampleRow) == 0 &&
                 rows.stride[0] % static_cast<int64_t>(alignof(SampleRow)) == 0,
             "sample: rows lie at {}, {} bytes apart, not on boundaries of {}", rows.data,
             rows.stride[0], alignof(SampleRow));
  SALA_CHECK(device.ops.sample != nullptr, "{} has no sample", device.name());
  device.ops.sample(device, logits, rows, tokens);
}

uint64_t sum_of_weights(std::span<const float> logits, const TokenWeights& weight) {
  uint64_t sum = 0;
  for (const float x : logits) sum += weight(x);
  return sum;
}

}  // namespace sala
