// config.json: any bytes give an Error or a configuration whose memory can be computed.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "model/config.h"
#include "model/mixer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const sala::ModelConfig config =
        sala::parse_config(sala::parse_json(text, "config.json"), "config.json");
    for (const sala::KvType kv : {sala::KvType::f32, sala::KvType::bf16, sala::KvType::int4})
      sala::memory_of(sala::cache_specs(config, kv), config.page(), 1 << 20);
  } catch (const sala::Error&) {
  }
  return 0;
}
