#include "tools/npy.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace sala {
namespace {

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  return path.string() + fmt::format(".{}.tmp", ::getpid());
}

}  // namespace

NpyWriter::NpyWriter(std::filesystem::path path, int64_t rows, int64_t columns)
    : path_(std::move(path)),
      temporary_(temporary_name(path_)),
      file_(temporary_, std::ios::binary) {
  if (!file_) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
  constexpr size_t kPreamble = 10, kAlign = 64;
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  header.append((kAlign - (kPreamble + header.size() + 1) % kAlign) % kAlign, ' ');
  header += '\n';
  file_ << std::string("\x93NUMPY\x01\x00", 8) << static_cast<char>(header.size() & 0xFF)
        << static_cast<char>(header.size() >> 8) << header;
}

NpyWriter::~NpyWriter() {
  if (finished_) return;
  file_.close();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void NpyWriter::write(std::span<const float> values) {
  file_.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size_bytes()));
  if (!file_)
    fail("{}: cannot write {} bytes: {}", path_.string(), values.size_bytes(),
         std::strerror(errno));
}

void NpyWriter::finish() {
  file_.close();
  if (!file_) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
  std::filesystem::rename(temporary_, path_);
  finished_ = true;
}

void write_text(const std::filesystem::path& path, const std::string& text) {
  const auto temporary = temporary_name(path);
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    const int error = errno;
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    fail("{}: cannot write {} bytes: {}", path.string(), text.size(), std::strerror(error));
  }
  std::filesystem::rename(temporary, path);
}

}  // namespace sala
