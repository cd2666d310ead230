#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace sala {

void panic(const std::string& message, const char* file, int line) {
  std::fprintf(stderr, "sala: bug at %s:%d: %s\n", file, line, message.c_str());
  std::abort();
}

}  // namespace sala
