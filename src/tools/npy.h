#pragma once

#include <cstdint>
#include <string>

namespace sala {

/// What comes before the numbers of a float32 matrix [rows, columns] in a NumPy .npy file (format
/// 1.0); they follow row by row.
std::string npy_header(int64_t rows, int64_t columns);

}  // namespace sala
