#include "base/json.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/mapped_file.h"

namespace sala {
namespace {

/// What a JSON text asks of a parser, counted without parsing it.
struct Shape {
  int depth = 0;            ///< of its nesting (brackets outside strings)
  int64_t comparisons = 0;  ///< of each key with those before it in its object
};

Shape shape_of(std::string_view text) {
  Shape shape;
  int depth = 0;
  std::array<int64_t, kMostJsonDepth + 1> keys{};  // so far, of the objects that are open
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
      shape.depth = std::max(shape.depth, ++depth);
      if (depth > 0 && depth <= kMostJsonDepth) keys[static_cast<size_t>(depth)] = 0;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ':' && depth > 0 && depth <= kMostJsonDepth) {
      shape.comparisons += keys[static_cast<size_t>(depth)]++;
    }
  }
  return shape;
}

}  // namespace

void check_json_text(std::string_view text, const std::string& name, bool ordered) {
  constexpr int64_t kMostComparisons = 50'000'000;  // 10,000 keys in one object; tenths of a second
  const Shape shape = shape_of(text);
  if (shape.depth > kMostJsonDepth)
    fail("{}: JSON is nested {} levels deep, more than the {} that are accepted", name, shape.depth,
         kMostJsonDepth);
  if (ordered && shape.comparisons > kMostComparisons)
    fail("{}: its objects have too many keys; expected 10,000 at most in one", name);
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
