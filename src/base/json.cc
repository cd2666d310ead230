#include "base/json.h"

#include <algorithm>

#include "base/error.h"
#include "base/mapped_file.h"

namespace sala {
namespace {

constexpr int kMaxDepth = 256;

/// The nesting depth of a JSON text, counted without parsing it (brackets outside strings).
int depth_of(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

void check_json_text(std::string_view text, const std::string& name) {
  if (const int depth = depth_of(text); depth > kMaxDepth)
    fail("{}: JSON is nested {} levels deep, more than the {} that are accepted", name, depth,
         kMaxDepth);
  // The library takes a NUL for the end and would ignore what follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail("{}: not valid JSON: byte {} is NUL; the file is damaged", name, nul);
}

Json parse_json(std::string_view text, const std::string& name) {
  check_json_text(text, name);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    // The library quotes all that it read of the token at fault.
    fail("{}: not valid JSON: {}", name, std::string_view(e.what()).substr(0, 300));
  }
}

std::string read_text(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_text(path), path.string());
}

}  // namespace sala
