#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

namespace sala {

/// Writes a float32 matrix [rows, columns] as a NumPy .npy file (format 1.0), row by row. The file
/// appears under its name only when finish() has been called: until then, and if it never is, the
/// name is untouched.
class NpyWriter {
 public:
  /// Throws Error when the file cannot be made.
  NpyWriter(std::filesystem::path path, int64_t rows, int64_t columns);
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  void write(std::span<const float> values);
  /// Throws Error when something could not be written (a full disk).
  void finish();

 private:
  std::filesystem::path path_, temporary_;
  std::ofstream file_;
  bool finished_ = false;
};

/// Writes a whole text file under a temporary name and then renames it. Throws Error when that
/// fails.
void write_text(const std::filesystem::path& path, const std::string& text);

}  // namespace sala
