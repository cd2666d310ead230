// sala-halo extend: stage 3, long texts without a teacher.
#include "base/error.h"
#include "checkpoint.h"
#include "command.h"
#include "losses.h"
#include "sparse_flag.h"

namespace sala::halo {
namespace {

struct ExtendCommand {
  TrainFlags flags;
  std::string student, sparse;
  bool dense = false;

  ExtendCommand() {
    flags.train.schedule = {.peak = 1e-4, .last = 1e-5, .warmup = 20, .steps = 100};
    flags.train.context = 2048;
    flags.train.batch = 4;
    flags.data.recall = 0.5;
  }
  void run();
};

void ExtendCommand::run() {
  flags.prepare();
  const TrainOptions& train = flags.train;
  Checkpoint model = read_checkpoint(student, train.on());
  if (!sparse.empty()) model.config.attention.sparse = read_sparse(sparse);
  model.config.trained_context = std::max(model.config.trained_context, train.context);
  copy_tokenizer(student, train.out);
  const Data data(flags.data, train.out);
  Trainer trainer(train, data, model.weights,
                  [&] { write_checkpoint(train.out, model, torch::kFloat); });
  if (!trainer.needed()) return;
  const Decoder decoder = model.decoder();
  const Pass pass{.type = train.product_type(), .sparse = !dense};
  trainer.run([&](const Batch& batch, const StepSize& step) {
    const Tensor ids = batch.ids.narrow(1, 0, batch.weights.size(1));
    return cross_entropy(decoder.logits(ids, pass), batch, step);
  });
}

}  // namespace

void add_extend(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("extend", "Stage 3: train on long texts, attention sparse");
  auto extend = std::make_shared<ExtendCommand>();
  command.add_option("--student", extend->student, "model directory that distill made")->required();
  command.add_option("--sparse", extend->sparse,
                     "another InfLLM-V2 for attention layers, as distill takes it; or none");
  command.add_flag("--dense", extend->dense, "train with dense attention");
  extend->flags.add_to(command);
  command.callback([extend] { extend->run(); });
}

}  // namespace sala::halo
