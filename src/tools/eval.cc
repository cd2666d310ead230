// sala eval: how well a model predicts and remembers.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "tools/command.h"
#include "tools/eval_recall.h"
#include "tools/progress.h"

namespace sala {
namespace {

struct PplCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  std::string file;
  std::vector<int64_t> contexts = {2048};
  bool json = false;

  void run() const;
};

/// Natural logarithms of the probabilities of some tokens.
struct Surprise {
  double total = 0.0;
  int64_t predicted = 0;
};

/// -ln softmax(logits)[target], in double.
double surprise(std::span<const float> logits, int target) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - largest);
  return largest + std::log(sum) - static_cast<double>(logits[static_cast<size_t>(target)]);
}

/// The text in windows of `context` tokens, each begun by the model's BOS; every token after a
/// window's first is predicted from those before it in the window.
Surprise read_in_windows(const LoadedModel& loaded, RunOptions options, int64_t context,
                         std::span<const int> tokens) {
  const std::vector<int> prefix = loaded.files.raw_prefix();
  options.context = context;
  options.chunk = static_cast<int>(std::min<int64_t>(options.chunk, context));
  options.logits = options.chunk;
  Runner runner(*loaded.model, *loaded.device, options);
  const size_t step = static_cast<size_t>(context) - prefix.size();
  Surprise all;
  Progress bar(fmt::format("evaluating at {}", context), "tokens");
  for (size_t at = 0; at < tokens.size(); at += step) {
    std::vector<int> window = prefix;
    const size_t end = std::min(tokens.size(), at + step);
    window.insert(window.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at),
                  tokens.begin() + static_cast<std::ptrdiff_t>(end));
    size_t position = 0;
    Hold hold = runner.open();
    const auto score = [&](In logits) {
      for (int64_t i = 0; i < logits.dim[0] && position + 1 < window.size();
           ++i, ++position, ++all.predicted)
        all.total += surprise({logits.row<float>(i), static_cast<size_t>(logits.dim[1])},
                              window[position + 1]);
    };
    runner.read(hold, window, {.wanted = static_cast<int64_t>(window.size()), .on_logits = score});
    bar.update(static_cast<int64_t>(end), static_cast<int64_t>(tokens.size()));
  }
  bar.clear();
  return all;
}

void PplCommand::run() const {
  LoadedModel loaded = load_model(model, OpenText::yes);
  const std::string text = read_input(file);
  const std::vector<int> tokens = loaded.files.require_tokenizer().encode(text);
  if (tokens.size() + loaded.files.raw_prefix().size() < 2)
    fail("{}: too short to predict anything: {} tokens", file, tokens.size());
  Json rows = Json::array();
  for (const int64_t context : contexts) {
    const Surprise all = read_in_windows(loaded, model.run_options(), context, tokens);
    const double mean = all.total / static_cast<double>(std::max<int64_t>(all.predicted, 1));
    const double bits = all.total / std::log(2.0) / static_cast<double>(text.size());
    rows.push_back({{"context", context},
                    {"predicted", all.predicted},
                    {"perplexity", std::exp(mean)},
                    {"nats_per_token", mean},
                    {"bits_per_byte", bits}});
    if (!json)
      fmt::print("perplexity {:.4f} over {} tokens in windows of {}; {:.4f} bits per byte\n",
                 std::exp(mean), all.predicted, context, bits);
  }
  if (json)
    fmt::print("{}\n", Json{{"file", file}, {"tokens", tokens.size()}, {"rows", rows}}.dump());
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App& eval = *app.add_subcommand("eval", "Measure a model");
  eval.require_subcommand(1);
  CLI::App& command = *eval.add_subcommand("ppl", "Perplexity and bits per byte of a text");
  auto ppl = std::make_shared<PplCommand>();
  ppl->model.add_to(command);
  command.add_option("file", ppl->file, "the text")->required();
  command.add_option("--ctx", ppl->contexts, "tokens of context, one number or several")
      ->delimiter(',')
      ->check(number_from(int64_t{2}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_flag("--json", ppl->json, "print one JSON object");
  read_environment(command);
  command.callback([ppl] { ppl->run(); });
  add_eval_recall(eval);
}

}  // namespace sala
