#include "session/checksum.h"

#include <xxhash.h>

namespace sala {

uint64_t checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace sala
