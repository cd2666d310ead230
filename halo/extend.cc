// sala-halo extend: stage 3, long texts without a teacher.
#include "attention.h"
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
  double index = 0.0;

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
  if (index > 0.0 && !model.config.attention.sparse)
    fail("--index-loss: {} has no index; expected a model with a sparse_config, or --sparse",
         student);
  trainer.run([&](const Batch& batch, const StepSize& step) {
    std::vector<Looked> looked;
    const Pass pass{
        .type = train.product_type(), .sparse = !dense, .looked = index > 0.0 ? &looked : nullptr};
    const Tensor ids = batch.ids.narrow(1, 0, batch.weights.size(1));
    const Tensor logits = decoder.logits(ids, pass);
    // Where something must be found again: elsewhere the blocks nearby, always chosen, say most.
    const Tensor asked = batch.weights * batch.answers;
    Tensor sum;
    for (const Looked& layer : looked) {
      const Tensor loss =
          index_loss(layer.q, layer.k, *model.config.attention.sparse, asked, train.product_type());
      sum = sum.defined() ? sum + loss : loss;
    }
    Metrics metrics = cross_entropy(logits, batch, step, sum.defined() ? sum * index : sum);
    if (sum.defined()) metrics["index"] = {sum.item<double>(), asked.sum().item<double>()};
    return metrics;
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
  command
      .add_option(
          "--index-loss", extend->index,
          "weight of a loss that makes the index point at what attention reads for an answer")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  extend->flags.add_to(command);
  command.callback([extend] { extend->run(); });
}

}  // namespace sala::halo
