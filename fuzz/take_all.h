#pragma once

#include <algorithm>

#include "base/error.h"
#include "weights/source.h"

/// Takes every small tensor in the shape that the file gives it. Errors are what the fuzzers allow.
inline void take_all(sala::WeightSource source) {
  constexpr int64_t kMostElements = 1 << 12;
  for (const auto& tensor : source.tensors()) {
    const auto& shape = tensor.shape;
    const bool positive = std::ranges::all_of(shape, [](int64_t extent) { return extent > 0; });
    if (!positive || tensor.elements() > kMostElements) continue;
    try {
      if (shape.size() == 1) source.take_vector(tensor.name, shape[0]);
      if (shape.size() == 2) source.take_matrix(tensor.name, shape[0], shape[1]);
    } catch (const sala::Error&) {
      continue;
    }
  }
  source.expect_all_taken();
}
