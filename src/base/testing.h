#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/error.h"

/// What the tests of every layer need: a directory of their own, errors that must come.
namespace sala::testing {

/// A directory of this test, removed with it.
class Scratch {
 public:
  Scratch() {
    auto pattern = (std::filesystem::temp_directory_path() / "sala-XXXXXX").string();
    const char* made = ::mkdtemp(pattern.data());
    SALA_CHECK(made != nullptr, "no scratch directory at {}", pattern);
    dir_ = made;
  }
  ~Scratch() { std::filesystem::remove_all(dir_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::filesystem::path& dir() const { return dir_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
    return dir_ / name;
  }

 private:
  std::filesystem::path dir_;
};

/// The text of the Error that `work` throws; a test failure if it throws none.
inline std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error";
  return {};
}

/// Expects that `work` throws an Error whose text contains all of `parts`.
inline void expect_error(const std::function<void()>& work,
                         std::initializer_list<std::string_view> parts) {
  const std::string text = error_of(work);
  for (const auto part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in: " << text;
}

}  // namespace sala::testing
