#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "base/error.h"
#include "tools/command.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int run(int argc, char** argv) {
  CLI::App app("sala: sparse + linear hybrid language models on your own machine", "sala");
  app.set_version_flag("--version", SALA_VERSION);
  app.require_subcommand(1);
  sala::add_run(app);
  sala::add_chat(app);
  sala::add_logits(app);
  sala::add_inspect(app);
  sala::add_tokenize(app);
  sala::add_eval(app);
  sala::add_trace(app);
  sala::add_doctor(app);
  sala::add_bench(app);
  sala::add_serve(app);
  sala::add_quantize(app);
  sala::add_session(app);
  app.footer("Every option can also be set as SALA_<OPTION>, e.g. SALA_THREADS=4 for --threads 4.");
  const auto is_first = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_first).empty())
    throw sala::UsageError(fmt::format("there is no command \"{}\"", argv[1]));
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (!arguments.empty() && arguments[0] == "serve") sala::rename_serve_options(arguments);
  std::ranges::reverse(arguments);  // as the parser wants them
  try {
    app.parse(std::move(arguments));
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "sala: %s; see sala --help\n", e.what());
    return kUsage;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const sala::UsageError& e) {
    std::fprintf(stderr, "sala: %s; see sala --help\n", e.what());
    return kUsage;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sala: %s\n", e.what());
    return kFailed;
  }
}
