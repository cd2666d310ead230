// sala-halo pack, pretrain: a small teacher from nothing.
#include "base/error.h"
#include "checkpoint.h"
#include "command.h"
#include "losses.h"
#include "start.h"

namespace sala::halo {
namespace {

struct PackCommand {
  std::string tokenizer, out;
  std::vector<std::filesystem::path> files;

  void run() const {
    std::filesystem::path dir = tokenizer;
    if (tokenizer.empty()) {
      dir = std::filesystem::path(out).replace_extension(".tokenizer");
      write_byte_tokenizer(dir);
    }
    const auto known = Tokenizer::from_directory(dir);
    if (known == nullptr) fail("{}: has no tokenizer", dir.string());
    fmt::print(stderr, "{}: {} tokens\n", out, pack(files, *known, out));
    if (tokenizer.empty()) std::filesystem::remove_all(dir);
  }
};

struct PretrainCommand {
  TrainFlags flags;
  std::string tokenizer, from, start = "random";
  int layers = 8, hidden = 192, heads = 3, kv_heads = 1, head_dim = 64, intermediate = 512;
  double rope_theta = 10000.0;

  PretrainCommand() {
    flags.train.schedule = {.peak = 2e-3, .last = 1e-5, .warmup = 100, .steps = 2000};
    flags.train.weight_decay = 0.1;
  }
  ModelConfig config(const Tokenizer& known) const;
  void run();
};

ModelConfig PretrainCommand::config(const Tokenizer& known) const {
  if (heads % kv_heads != 0)
    throw UsageError(
        fmt::format("--heads ({}) is not a multiple of --kv-heads ({})", heads, kv_heads));
  if (head_dim % 2 != 0)
    throw UsageError(fmt::format("--head-dim is {}; expected an even number", head_dim));
  ModelConfig c;
  c.family = "llama";
  c.vocab = known.size();
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.mixers.assign(static_cast<size_t>(layers), MixerKind::attention);
  c.attention.heads = heads;
  c.attention.kv_heads = kv_heads;
  c.attention.head_dim = head_dim;
  c.rope.theta = rope_theta;
  c.tied = start == "random";
  c.trained_context = flags.train.context;
  c.bos = known.bos();
  c.eos = {*known.eos()};
  return c;
}

void PretrainCommand::run() {
  flags.prepare();
  const TrainOptions& train = flags.train;
  const std::string& source = from.empty() ? tokenizer : from;
  if (source.empty()) {
    write_byte_tokenizer(train.out);
  } else {
    copy_tokenizer(source, train.out);
  }
  const Data data(flags.data, train.out);
  Checkpoint model;
  if (from.empty()) {
    model.config = config(data.tokenizer());
    const auto begin = start == "random" ? random_start : induction_start;
    model.weights = begin(model.config, flags.data.seed, train.on());
  } else {
    model = read_checkpoint(from, train.on());
    model.config.trained_context = std::max(model.config.trained_context, train.context);
  }
  int64_t parameters = 0;
  for (const auto& [name, weight] : model.weights) parameters += weight.numel();
  fmt::print(stderr, "{} parameters\n", parameters);
  Trainer trainer(train, data, model.weights,
                  [&] { write_checkpoint(train.out, model, torch::kFloat); });
  if (!trainer.needed()) return;
  const Decoder decoder = model.decoder();
  const Pass pass{.type = train.product_type(), .sparse = false};
  trainer.run([&](const Batch& batch, const StepSize& step) {
    const Tensor ids = batch.ids.narrow(1, 0, batch.weights.size(1));
    return cross_entropy(decoder.logits(ids, pass), batch, step);
  });
}

}  // namespace

void add_pack(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("pack", "Pack texts as token ids");
  auto pack = std::make_shared<PackCommand>();
  command.add_option("files", pack->files, "texts, one file a document")->required();
  command.add_option("--tokenizer", pack->tokenizer,
                     "directory with a tokenizer; none: a token for each byte");
  command.add_option("--out", pack->out, "file to write")->required();
  command.callback([pack] { pack->run(); });
}

void add_pretrain(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("pretrain", "Train a small teacher from nothing");
  auto pretrain = std::make_shared<PretrainCommand>();
  pretrain->flags.add_to(command);
  command.add_option("--tokenizer", pretrain->tokenizer,
                     "directory with a tokenizer; none: a token for each byte");
  command.add_option("--from", pretrain->from,
                     "model directory to go on from, on other data or longer sequences");
  command
      .add_option(
          "--start", pretrain->start,
          "first weights: random with a tied head, or induction (finds again from the first "
          "step; docs/halo.md)")
      ->check(CLI::IsMember({"random", "induction"}))
      ->capture_default_str();
  const auto extent = CLI::Range(1, 1 << 20);
  const auto add = [&](const char* name, int& value, const char* what) {
    command.add_option(name, value, what)->check(extent)->capture_default_str();
  };
  add("--layers", pretrain->layers, "layers");
  add("--hidden", pretrain->hidden, "width of the residual stream");
  add("--heads", pretrain->heads, "query heads");
  add("--kv-heads", pretrain->kv_heads, "key heads");
  add("--head-dim", pretrain->head_dim, "width of a head");
  add("--ffn", pretrain->intermediate, "width of the MLP");
  command.add_option("--rope-theta", pretrain->rope_theta, "base of RoPE")->capture_default_str();
  command.add_option("--weight-decay", pretrain->flags.train.weight_decay, "of matrices")
      ->capture_default_str();
  command.callback([pretrain] { pretrain->run(); });
}

}  // namespace sala::halo
