#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace sala {

/// What a user can act on: bad files, flags, requests, a machine that is too small. The text is a
/// sentence that names the file, tensor, field or flag, what was found, what was expected and the
/// remedy. `main` prints it and exits with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A command line that cannot be understood; `main` exits with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Throws Error with a formatted sentence.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Ends the program because of a bug of ours: prints the message with its place and aborts. Never
/// for bad input.
[[noreturn]] void panic(const std::string& message, const char* file, int line);

/// Whether this build checks inner assertions: all presets but the optimised ones do.
#ifdef NDEBUG
inline constexpr bool kAssertions = false;
#else
inline constexpr bool kAssertions = true;
#endif

}  // namespace sala

/// Claims that must hold if this program is right (shape contracts, invariants). Always on; keep
/// out of inner loops.
#define SALA_CHECK(condition, ...)                                                           \
  do {                                                                                       \
    if (!(condition)) [[unlikely]]                                                           \
      ::sala::panic("check failed: " #condition ": " + ::fmt::format(__VA_ARGS__), __FILE__, \
                    __LINE__);                                                               \
  } while (false)

/// The same for inner loops, in builds with kAssertions only.
#define SALA_ASSERT(condition, ...)                                        \
  do {                                                                     \
    if constexpr (::sala::kAssertions) SALA_CHECK(condition, __VA_ARGS__); \
  } while (false)
