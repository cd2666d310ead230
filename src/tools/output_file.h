#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace sala {

/// A file that an option names. It is written under another name until finish() gives it its own:
/// if that is never called, nothing has changed. Where a device or a pipe has the name, the bytes
/// go there; of a symbolic link the file is meant to which it leads.
class OutputFile {
 public:
  /// Writes nothing yet. Throws Error that names `option` and `path` when nothing can be written
  /// there: it is a directory, or in a folder that is missing.
  OutputFile(const char* option, const std::filesystem::path& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Throws Error when that fails (a full disk).
  void write(std::string_view bytes);
  void finish();

 private:
  [[noreturn]] void cannot_write(int error) const;

  std::string name_;  ///< for messages
  std::filesystem::path target_, temporary_;
  bool direct_ = false;  ///< without another name
  std::ofstream file_;
};

/// Throws what OutputFile does, so that it is told before any work; an empty path is no file.
void expect_output(const char* option, const std::filesystem::path& path);

/// Writes a whole OutputFile.
void write_output(const char* option, const std::filesystem::path& path, std::string_view text);

}  // namespace sala
