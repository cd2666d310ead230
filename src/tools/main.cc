#include <fcntl.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "tools/command.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kInterrupted = 130;  // as shells say it of SIGINT

/// A file that is opened must not take the place of a standard stream that is closed.
void keep_closed_streams_closed() {
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd >= 0) ::close(fd);
}

/// `command` becomes what the arguments name, "sala session list", as far as they do.
int run(std::span<char*> given, std::string& command) {
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
  std::vector<std::string> arguments(given.begin(), given.end());
  const CLI::App* chosen = &app;
  const auto is_any = [](const CLI::App*) { return true; };
  for (const std::string& name : arguments) {
    if (name.starts_with('-') || chosen->get_subcommands(is_any).empty()) break;
    const auto found =
        chosen->get_subcommands([&](const CLI::App* sub) { return sub->get_name() == name; });
    if (found.empty())
      throw sala::UsageError(fmt::format("there is no command \"{} {}\"", command, name));
    chosen = found[0];
    command += " " + name;
  }
  if (command == "sala serve") sala::rename_serve_options(arguments);
  if (command == "sala run" || command == "sala chat") sala::rename_short_options(arguments);
  std::ranges::reverse(arguments);  // as the parser wants them
  try {
    app.parse(std::move(arguments));
    return 0;
  } catch (const CLI::ExtrasError&) {
    throw sala::UsageError(fmt::format("unexpected: {}", fmt::join(app.remaining(true), " ")));
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    throw sala::UsageError(e.what());
  }
}

/// The status of the program: `status`, or that of a failure where standard output lost something.
/// `error` is the cause, if it is known.
int finish_output(int status, int error) {
  if (std::fflush(stdout) != 0) error = errno;
  if (std::ferror(stdout) == 0) return status;
  if (error != EPIPE)  // else whoever reads has enough
    std::fprintf(stderr, "sala: standard output: cannot write: %s\n",
                 error != 0 ? std::strerror(error) : "a part is lost");
  return kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  keep_closed_streams_closed();
  std::string command = "sala";
  int status = kFailed, error = 0;
  try {
    status = run(std::span(argv, static_cast<size_t>(argc)).subspan(std::min(argc, 1)), command);
  } catch (const sala::UsageError& e) {
    std::fprintf(stderr, "sala: %s; see %s --help\n", e.what(), command.c_str());
    status = kUsage;
  } catch (const sala::Interrupted&) {
    status = kInterrupted;
  } catch (const std::exception& e) {
    if (const auto* cause = dynamic_cast<const std::system_error*>(&e))
      error = cause->code().value();
    if (std::ferror(stdout) == 0) std::fprintf(stderr, "sala: %s\n", e.what());
  }
  return finish_output(status, error);
}
