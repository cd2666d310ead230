#include <cstddef>
#include <cstdint>
#include <span>

#include "model/config.h"
#include "take_all.h"
#include "weights/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto gguf = sala::Gguf::parse(std::as_bytes(std::span(data, size)), "fuzz", nullptr);
    try {
      (void)sala::gguf_config(gguf);
    } catch (const sala::Error&) {
    }
    try {
      take_all(gguf.model_weights());
    } catch (const sala::Error&) {
    }
    take_all(sala::WeightSource(gguf.tensors(), "fuzz"));
  } catch (const sala::Error&) {
  }
  return 0;
}
