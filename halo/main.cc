#include <malloc.h>

#include <cstdio>
#include <exception>

#include "base/error.h"
#include "command.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

/// Keeps what the C library would give back to the system after every step: the same sizes come
/// again, and touching new pages costs more than computing in them.
void keep_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2000000000);
}

int run(int argc, char** argv) {
  CLI::App app("sala-halo: makes sparse + linear hybrids of transformers", "sala-halo");
  app.set_version_flag("--version", SALA_VERSION);
  app.require_subcommand(1);
  sala::halo::add_pack(app);
  sala::halo::add_pretrain(app);
  sala::halo::add_init(app);
  sala::halo::add_align(app);
  sala::halo::add_select(app);
  sala::halo::add_distill(app);
  sala::halo::add_extend(app);
  sala::halo::add_export(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "sala-halo: %s; see sala-halo --help\n", e.what());
    return kUsage;
  }
}

}  // namespace

int main(int argc, char** argv) {
  keep_memory();
  try {
    return run(argc, argv);
  } catch (const sala::UsageError& e) {
    std::fprintf(stderr, "sala-halo: %s; see sala-halo --help\n", e.what());
    return kUsage;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sala-halo: %s\n", e.what());
    return kFailed;
  }
}
