#include "tools/npy.h"

#include <fmt/format.h>

namespace sala {

std::string npy_header(int64_t rows, int64_t columns) {
  constexpr size_t kPreamble = 10, kAlign = 64;
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  header.append((kAlign - (kPreamble + header.size() + 1) % kAlign) % kAlign, ' ');
  header += '\n';
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size() & 0xFF) +
         static_cast<char>(header.size() >> 8) + header;
}

}  // namespace sala
