// sala-halo distill: stage 2, the hybrid learns the teacher's distribution.
#include "base/error.h"
#include "base/json.h"
#include "command.h"
#include "convert.h"
#include "losses.h"
#include "sparse_flag.h"

namespace sala::halo {
namespace {

struct DistillCommand {
  TrainFlags flags;
  std::string teacher, student, layers, trained = "all", sparse = kDefaultSparse;
  bool keep_rope = false, no_gate = false;

  DistillCommand() {
    flags.train.schedule = {.peak = 1e-3, .last = 1e-5, .warmup = 50, .steps = 1000};
    flags.data.recall = 0.5;
  }
  std::vector<int> kept() const;
  Weights trained_weights(const Checkpoint& model) const;
  void run();
};

/// The layers of --layers: a list, or the report of select.
std::vector<int> DistillCommand::kept() const {
  if (std::filesystem::exists(layers)) {
    const Json report = read_json(layers);
    if (!report.contains("layers"))
      fail("{}: key \"layers\" is missing; expected a report of select", layers);
    return report.at("layers").get<std::vector<int>>();
  }
  std::vector<int> list;
  for (const std::string& word : CLI::detail::split(layers, ',')) {
    int layer = 0;
    if (!CLI::detail::lexical_cast(word, layer))
      throw UsageError(
          fmt::format("--layers is \"{}\"; expected a report of select or e.g. 2,5", layers));
    list.push_back(layer);
  }
  return list;
}

Weights DistillCommand::trained_weights(const Checkpoint& model) const {
  if (trained == "all") return model.weights;
  if (trained != "linear")
    throw UsageError(fmt::format("--train is \"{}\"; expected all or linear", trained));
  Weights linear;
  for (int layer = 0; layer < model.config.layers(); ++layer)
    if (model.config.mixers[static_cast<size_t>(layer)] == MixerKind::lightning)
      for (const auto& [name, shape] : mixer_shapes(model.config, layer))
        linear[name] = model.weights.at(name);
  return linear;
}

void DistillCommand::run() {
  flags.prepare();
  const TrainOptions& train = flags.train;
  const Checkpoint from = read_checkpoint(teacher, train.on());
  const Checkpoint model = hybrid(from, read_checkpoint(student, train.on()), kept(),
                                  {.nope = !keep_rope,
                                   .gate = !no_gate,
                                   .sparse = read_sparse(sparse),
                                   .seed = flags.data.seed});
  copy_tokenizer(teacher, train.out);
  const Data data(flags.data, train.out);
  Trainer trainer(train, data, trained_weights(model),
                  [&] { write_checkpoint(train.out, model, torch::kFloat); });
  if (!trainer.needed()) return;
  const Decoder teaching = from.decoder(), learning = model.decoder();
  const Pass pass{.type = train.product_type(), .sparse = false};
  trainer.run([&](const Batch& batch, const StepSize& step) {
    const Tensor ids = batch.ids.narrow(1, 0, batch.weights.size(1));
    Tensor wanted;
    {
      const torch::NoGradGuard no_grad;
      wanted = teaching.logits(ids, pass);
    }
    return divergence(learning.logits(ids, pass), wanted, batch, step);
  });
}

}  // namespace

void add_distill(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("distill", "Stage 2: the hybrid learns the teacher's distribution");
  auto distill = std::make_shared<DistillCommand>();
  command.add_option("--teacher", distill->teacher, "model directory of the transformer")
      ->required();
  command.add_option("--student", distill->student, "model directory that align made")->required();
  command
      .add_option("--layers", distill->layers,
                  "layers that stay attention: select's report, or e.g. 2,5")
      ->required();
  command
      .add_option("--train", distill->trained,
                  "all weights, or those of linear layers: all, linear")
      ->capture_default_str();
  command.add_flag("--keep-rope", distill->keep_rope,
                   "leave RoPE in attention layers (HyPE takes it out)");
  command.add_flag("--no-gate", distill->no_gate, "give attention layers no output gate");
  add_sparse(command, distill->sparse);
  distill->flags.add_to(command);
  command.callback([distill] { distill->run(); });
}

}  // namespace sala::halo
