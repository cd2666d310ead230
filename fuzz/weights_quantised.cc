// A checkpoint that others quantised. The input is its "quantization_config", a line break and a
// safetensors file: any bytes give an Error or matrices.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/json.h"
#include "take_all.h"
#include "weights/join_quantised.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = text.find('\n');
  if (line == std::string_view::npos) return 0;
  try {
    const auto bytes = std::as_bytes(std::span(data, size)).subspan(line + 1);
    auto joined = sala::join_quantised(sala::parse_safetensors(bytes, "fuzz", nullptr),
                                       sala::parse_json(text.substr(0, line), "fuzz"), "fuzz");
    take_all(sala::WeightSource(std::move(joined.tensors), "fuzz"));
  } catch (const sala::Error&) {
  }
  return 0;
}
