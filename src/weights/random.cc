#include "weights/random.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "ops/math.h"

namespace sala {
namespace {

/// Uniform in [-1, 1).
float number(Random& random) {
  return static_cast<float>(static_cast<int64_t>(random.bits()) >> 40) * 0x1p-23f;
}

void fill_groups(const Weight& w, Random& random, std::byte* panel) {
  const int64_t bytes = w.panel_bytes();  // a multiple of 8: rows are 32
  for (int64_t i = 0; i < bytes; i += 8) {
    const uint64_t word = random.bits();
    std::memcpy(panel + i, &word, sizeof word);
  }
  // Codes 0 to c have variance ((c + 1)^2 - 1) / 12.
  const double codes = narrow(w.type) ? 16 : 256;
  const double scale = std::sqrt(12 / (codes * codes - 1) / static_cast<double>(w.cols));
  const uint16_t scale16 = f32_to_f16(static_cast<float>(scale));
  const uint16_t min16 = f32_to_f16(-f16_to_f32(scale16) * static_cast<float>(codes - 1) / 2);
  for (int64_t g = 0; g < w.cols / group_columns(w.type); ++g) {
    auto* numbers = reinterpret_cast<uint16_t*>(panel + group_place(w.type, g));
    std::fill_n(numbers, kPanel, scale16);
    std::fill_n(numbers + kPanel, kPanel, min16);
  }
}

void fill_floats(const Weight& w, Random& random, std::byte* panel) {
  const float bound = std::sqrt(3 / static_cast<float>(w.cols));
  const int64_t size = w.type == WeightType::f32 ? 4 : 2, count = w.panel_bytes() / size;
  for (int64_t i = 0; i < count; ++i) {
    const float x = bound * number(random);
    if (w.type == WeightType::f32)
      reinterpret_cast<float*>(panel)[i] = x;
    else
      reinterpret_cast<uint16_t*>(panel)[i] =
          w.type == WeightType::bf16 ? f32_to_bf16(x) : f32_to_f16(x);
  }
}

}  // namespace

Weight random_weight(
    WeightType type, int64_t rows, int64_t cols, bool paired,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel) {
  SALA_CHECK(!two_level(type) && cols % column_unit(type) == 0, "{} columns of {}", cols,
             name_of(type));
  Weight w{.type = type, .rows = rows, .cols = cols, .paired = paired, .storage = {}};
  w.storage = allocate(w.bytes());
  w.data = w.storage.get();
  parallel(w.panels(), [&](int64_t i) {
    Random random(0, static_cast<uint64_t>(i));
    std::byte* panel = w.storage.get() + i * w.panel_bytes();
    quantised(type) ? fill_groups(w, random, panel) : fill_floats(w, random, panel);
  });
  return w;
}

}  // namespace sala
