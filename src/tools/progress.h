#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace sala {

/// A progress bar on standard error: share done, rate and time left. Silent when standard error is
/// not a terminal, and for the first half second.
class Progress {
 public:
  /// `what` is done in `unit`s, e.g. Progress("reading", "tokens").
  Progress(std::string what, std::string unit, double unit_size = 1.0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done, int64_t total);
  /// Wipes the bar from the line.
  void clear();

 private:
  std::string what_, unit_;
  double unit_size_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace sala
