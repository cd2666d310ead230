#pragma once

#include <string>

#include "base/error.h"

namespace sala::jinja {

/// A fault of the template, at a known line. Whoever knows the template's name puts it in front.
class LineError : public Error {
 public:
  LineError(int line, const std::string& message) : Error(message), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

[[noreturn]] inline void fail_at(int line, const std::string& message) {
  throw LineError(line, message);
}

}  // namespace sala::jinja
