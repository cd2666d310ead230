#include "tools/output_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

/// Where links lead, also to what is not there yet.
fs::path behind_links(fs::path path) {
  constexpr int kMostLinks = 40;  // as many as Linux follows
  std::error_code none;
  for (int i = 0; i < kMostLinks && fs::is_symlink(fs::symlink_status(path, none)); ++i)
    path = path.parent_path() / fs::read_symlink(path);
  return path;
}

}  // namespace

OutputFile::OutputFile(const char* option, const fs::path& path)
    : name_(fmt::format("{} {}", option, path.string())) {
  std::error_code error;
  const fs::file_status there = fs::status(path, error);
  if (there.type() == fs::file_type::none) fail("{}: {}", name_, error.message());
  if (fs::is_directory(there)) fail("{}: is a directory; give the name of a file", name_);
  direct_ = fs::exists(there) && !fs::is_regular_file(there);
  target_ = direct_ ? path : behind_links(path);
  temporary_ = target_.string() + fmt::format(".{}.tmp", ::getpid());
  const fs::path needed = direct_ ? path : target_.parent_path() / ".";
  if (::access(needed.c_str(), W_OK) != 0) cannot_write(errno);
}

OutputFile::~OutputFile() {
  if (!file_.is_open() || direct_) return;
  file_.close();
  std::error_code ignored;
  fs::remove(temporary_, ignored);
}

void OutputFile::write(std::string_view bytes) {
  if (!file_.is_open()) file_.open(direct_ ? target_ : temporary_, std::ios::binary);
  if (!file_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()))) cannot_write(errno);
}

void OutputFile::finish() {
  if (!file_.flush()) cannot_write(errno);
  file_.close();
  if (direct_) return;
  std::error_code error;
  fs::rename(temporary_, target_, error);
  if (error) cannot_write(error.value());
}

void OutputFile::cannot_write(int error) const {
  fail("{}: cannot write: {}", name_, std::strerror(error));
}

void expect_output(const char* option, const fs::path& path) {
  if (!path.empty()) OutputFile(option, path);
}

void write_output(const char* option, const fs::path& path, std::string_view text) {
  OutputFile file(option, path);
  file.write(text);
  file.finish();
}

}  // namespace sala
