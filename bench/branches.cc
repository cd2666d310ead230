// What branches of a long text cost: a session is restored, forked N times, and each branch goes on
// with tokens of its own.
//
//   branches MODEL SESSION_DIRECTORY BRANCHES TOKENS
//
// Prints a JSON object: bytes that each branch took beside what was read from the session, against
// the closed form (its states, and the pages that it wrote).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "engine/open.h"
#include "engine/session.h"

namespace {

using Clock = std::chrono::steady_clock;

/// Bytes of this process that are in memory now and belong to no file.
int64_t anonymous_memory() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    int64_t kib = 0;
    if (word == "RssAnon:" && file >> kib) return kib * 1024;
  }
  return 0;
}

void run(const std::string& path, const std::string& dir, int branches, int64_t added) {
  sala::ModelFiles files = sala::open_model(path, sala::OpenText::yes);
  sala::RunOptions options;
  const auto device = sala::open_device(options);
  const sala::Model model(files.config, files.weights);
  const auto session = sala::Session::open(
      dir, sala::Session::Access::read, sala::session_facts(files, model, *device, options), false);
  const auto before = std::ssize(session.tokens());
  options.context = before + branches * (added + 2 * files.config.page());
  options.sequences = branches + 1;
  sala::make_room_for_snapshots(files.config, options);
  sala::Runner runner(model, *device, options);
  const auto start = Clock::now();
  sala::Hold trunk = session.restore(runner, before);
  const double restored = std::chrono::duration<double>(Clock::now() - start).count();
  std::vector<int> text(static_cast<size_t>(before + added));
  std::ranges::copy(session.tokens(), text.begin());
  const auto go_on = [&](sala::Hold& hold, int first) {
    // Token by token, as answers are written.
    for (int64_t i = 0; i < added; ++i) {
      const auto at = static_cast<size_t>(before + i);
      text[at] = static_cast<int>((first + 7 * i) % files.config.vocab);
      runner.read(hold, std::span(text).first(at + 1), {.wanted = 1});
    }
  };
  std::vector<sala::Hold> holds;
  const auto memory = [&] { return anonymous_memory() - runner.cache().traffic().bytes_read; };
  holds.push_back(runner.cache().fork(trunk));
  go_on(holds.back(), 1);  // the workspace and what every run touches once
  const int64_t first = memory();
  for (int b = 1; b < branches; ++b) {
    holds.push_back(runner.cache().fork(trunk));
    go_on(holds.back(), b + 1);
  }
  const int64_t each = (memory() - first) / (branches - 1);
  const auto specs = sala::cache_specs(files.config, options.kv);
  const int64_t touched =
      (before + added - 1) / files.config.page() - before / files.config.page() + 1;
  const sala::MemoryUse use =
      sala::memory_of(specs, files.config.page(), touched * files.config.page());
  fmt::print("{}\n", sala::Json{{"branches", branches},
                                {"tokens_before", before},
                                {"tokens_each", added},
                                {"restore_seconds", restored},
                                {"bytes_each", each},
                                {"bytes_each_closed_form", use.total()},
                                {"kv_bytes_of_the_text",
                                 sala::memory_of(specs, files.config.page(), before).kv}}
                         .dump());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: branches MODEL SESSION_DIRECTORY BRANCHES TOKENS\n", stderr);
    return 2;
  }
  try {
    run(argv[1], argv[2], std::atoi(argv[3]), std::atoll(argv[4]));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "branches: %s\n", e.what());
    return 1;
  }
}
