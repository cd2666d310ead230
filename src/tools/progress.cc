#include "tools/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace sala {
namespace {

using Clock = std::chrono::steady_clock;

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

Progress::Progress(std::string what, std::string unit, double unit_size)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      unit_size_(unit_size),
      terminal_(::isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() { clear(); }

void Progress::update(int64_t done, int64_t total) {
  using namespace std::chrono_literals;
  const auto now = Clock::now();
  if (!terminal_ || total <= 0 || now - start_ < 500ms || (now - last_ < 100ms && done < total))
    return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  const double rate = static_cast<double>(done) / elapsed;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0.0;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(share * kWidth);
  std::fputs(fmt::format("\r\x1b[K{} [{}{}] {:3.0f}%  {:.1f} {}/s  {} left", what_,
                         std::string(filled, '#'), std::string(kWidth - filled, '.'), 100.0 * share,
                         rate / unit_size_, unit_, duration(left))
                 .c_str(),
             stderr);
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::clear() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
  drawn_ = false;
}

}  // namespace sala
