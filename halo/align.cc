// sala-halo align: stage 1, hidden-state alignment.
#include "base/error.h"
#include "checkpoint.h"
#include "command.h"
#include "losses.h"

namespace sala::halo {
namespace {

struct AlignCommand {
  TrainFlags flags;
  std::string teacher, student;

  AlignCommand() {
    flags.train.schedule = {.peak = 1e-3, .last = 1e-5, .warmup = 50, .steps = 500};
    flags.data.recall = 0.5;
  }
  void run();
};

void AlignCommand::run() {
  flags.prepare();
  const TrainOptions& train = flags.train;
  const Checkpoint from = read_checkpoint(teacher, train.on());
  Checkpoint to = read_checkpoint(student, train.on());
  if (to.config.layers() != from.config.layers())
    fail("{} has {} layers, {} has {}", student, to.config.layers(), teacher, from.config.layers());
  copy_tokenizer(teacher, train.out);
  const Data data(flags.data, train.out);
  Weights mixers;
  for (int layer = 0; layer < to.config.layers(); ++layer)
    for (const auto& [name, shape] : mixer_shapes(to.config, layer))
      mixers[name] = to.weights.at(name);
  Trainer trainer(train, data, mixers, [&] { write_checkpoint(train.out, to, torch::kFloat); });
  if (!trainer.needed()) return;
  const Decoder teaching = from.decoder(), learning = to.decoder();
  trainer.run([&](const Batch& batch, const StepSize& step) {
    return align_layers(teaching, learning, {.type = train.product_type(), .sparse = false}, batch,
                        step);
  });
}

}  // namespace

void add_align(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "align", "Stage 1: every Lightning mixer learns to imitate its layer's attention");
  auto align = std::make_shared<AlignCommand>();
  command.add_option("--teacher", align->teacher, "model directory of the transformer")->required();
  command.add_option("--student", align->student, "model directory that init made")->required();
  align->flags.add_to(command);
  command.callback([align] { align->run(); });
}

}  // namespace sala::halo
