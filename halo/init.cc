// sala-halo init: stage 0, weight transfer.
#include "base/error.h"
#include "command.h"
#include "convert.h"

namespace sala::halo {
namespace {

struct InitCommand {
  std::string teacher, out;
  uint64_t seed = 0;

  void run() const {
    const Checkpoint from = read_checkpoint(teacher, torch::kCPU);
    write_checkpoint(out, lightning_student(from, seed), torch::kFloat);
    copy_tokenizer(teacher, out);
  }
};

}  // namespace

void add_init(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("init", "Stage 0: a student with a Lightning mixer in every layer");
  auto init = std::make_shared<InitCommand>();
  command.add_option("--teacher", init->teacher, "model directory of a transformer")->required();
  command.add_option("--out", init->out, "model directory to make")->required();
  command.add_option("--seed", init->seed, "of what the teacher lacks")->capture_default_str();
  command.callback([init] { init->run(); });
}

}  // namespace sala::halo
