#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"
#include "session/checksum.h"
#include "session/sessions.h"

namespace {

namespace fs = std::filesystem;

/// A directory that goes with the process.
struct Directory {
  Directory() {
    std::string pattern = (fs::temp_directory_path() / "sala-fuzz-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~Directory() { fs::remove_all(path); }
  fs::path path;
};

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// `json` with the checksum that a manifest ends with, so that the fuzzer gets past it.
std::string sealed(std::string json) {
  constexpr std::string_view kSeal = ",\"checksum\":\"";
  json = json.substr(0, std::min(json.rfind(kSeal), json.rfind('}')));
  const uint64_t sum = sala::checksum(std::as_bytes(std::span(json)));
  return fmt::format("{}{}{:016x}\"}}\n", json, kSeal, sum);
}

}  // namespace

/// The input is a session's files with a line FILE between them: manifest, tokens-0, index-0, kv-0,
/// state-1, tokens-2, index-2, kv-2, state-3. All that can be read of it is read, it is rolled back
/// by half and committed.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  for (const auto& entry : fs::directory_iterator(directory.path)) fs::remove(entry.path());
  constexpr std::string_view kSeparator = "\nFILE\n";
  constexpr const char* kFiles[] = {"manifest.json", "tokens-0", "index-0", "kv-0",   "state-1",
                                    "tokens-2",      "index-2",  "kv-2",    "state-3"};
  size_t at = 0;
  for (const char* name : kFiles) {
    const size_t end = std::min(input.find(kSeparator, at), input.size());
    const std::string bytes(input.substr(at, end - at));
    write(directory.path / name, name == kFiles[0] ? sealed(bytes) : bytes);
    at = std::min(end + kSeparator.size(), input.size());
  }
  try {
    sala::parse_manifest(input.substr(0, input.find(kSeparator)), "fuzz");
  } catch (const sala::Error&) {
  }
  try {
    sala::verify_session(directory.path);
    auto session = sala::StoredSession::open(directory.path, sala::StoredSession::Access::write);
    sala::numeric_differences(session.manifest(), {{"isa", "avx2"}});
    session.roll_back(session.manifest().tokens / 2);
    session.commit();
  } catch (const sala::Error&) {
  }
  return 0;
}
