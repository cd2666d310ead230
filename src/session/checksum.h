#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sala {

/// XXH3, 64 bits (Collet 2019): finds damage, not forgery.
uint64_t checksum(std::span<const std::byte> bytes);

template <class T>
uint64_t checksum_of(std::span<const T> values) {
  return checksum(std::as_bytes(values));
}

}  // namespace sala
