#include <cstddef>
#include <cstdint>
#include <span>

#include "take_all.h"
#include "weights/safetensors.h"

/// The input is read as a safetensors file and as the index of a sharded one.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    take_all(sala::WeightSource(sala::parse_safetensors(bytes, "fuzz", nullptr), "fuzz"));
  } catch (const sala::Error&) {
  }
  try {
    sala::parse_safetensors_index({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const sala::Error&) {
  }
  return 0;
}
