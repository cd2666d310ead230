// A trace of chosen blocks: any bytes give an Error or a trace that can be drawn.
#include "tools/block_trace.h"

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    std::istringstream file(std::string(reinterpret_cast<const char*>(data), size));
    sala::trace_svg(sala::read_trace(file, "trace"));
  } catch (const sala::Error&) {
  }
  return 0;
}
