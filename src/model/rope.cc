#include "model/rope.h"

#include <numbers>

#include "base/error.h"
#include "ops/math.h"

namespace sala {
namespace {

float llama3(const RopeConfig& rope, float inverse) {
  const auto original = static_cast<float>(rope.original_context);
  const auto factor = static_cast<float>(rope.factor);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / inverse;
  if (wavelength > static_cast<float>(rope.original_context / rope.low)) return inverse / factor;
  if (wavelength < static_cast<float>(rope.original_context / rope.high)) return inverse;
  const float smooth = (original / wavelength - static_cast<float>(rope.low)) /
                       static_cast<float>(rope.high - rope.low);
  return (1.0f - smooth) * inverse / factor + smooth * inverse;
}

}  // namespace

std::vector<float> inverse_frequencies(const RopeConfig& rope, int head_dim) {
  std::vector<float> inverse;
  for (int i = 0; i < head_dim / 2; ++i) {
    const float plain = rope_inverse_frequency(rope.theta, i, head_dim);
    switch (rope.type) {
      case RopeConfig::Type::plain:
        inverse.push_back(plain);
        break;
      case RopeConfig::Type::llama3:
        inverse.push_back(llama3(rope, plain));
        break;
      case RopeConfig::Type::factors:
        SALA_CHECK(rope.factors.size() == static_cast<size_t>(head_dim / 2), "{} factors",
                   rope.factors.size());
        inverse.push_back(plain / static_cast<float>(rope.factors[static_cast<size_t>(i)]));
        break;
    }
  }
  return inverse;
}

}  // namespace sala
