#pragma once

#include <string>

/// Times the kernels on the shapes of MiniCPM-SALA 9B and prints a table; `json` (a path, or
/// nothing) gets the same.
void time_kernels(const std::string& json);
