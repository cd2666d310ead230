// sala-halo select: which layers stay attention.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint.h"
#include "command.h"
#include "importance.h"
#include "losses.h"

namespace sala::halo {
namespace {

struct SelectCommand {
  TrainFlags flags;
  std::string teacher, student, epsilon = "auto", keep;
  double ratio = 0.25;
  int64_t documents = 64;

  void run();
};

/// What a model makes of the held-out documents.
struct Outcome {
  std::vector<double> common;  ///< -nats a token of each text
  double recall = 0.0;         ///< mean over recall documents of exp(-nats a token of the answers)
  double exact = 0.0;          ///< share of the answers' tokens that are the most likely ones
};

/// Documents that all models are measured on, some at a time.
struct Exam {
  std::vector<Batch> text, recall;
};

double mean(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double value : x) sum += value;
  return sum / static_cast<double>(x.size());
}

Outcome take(const Exam& exam, const Decoder& model, const Pass& pass) {
  const torch::NoGradGuard no_grad;
  Outcome outcome;
  Mean exact;
  std::vector<double> recalls;
  const auto surprise = [&](const Batch& batch, const Tensor& mask) {
    const Tensor ids = batch.ids.narrow(1, 0, batch.weights.size(1));
    const Tensor log_p = torch::log_softmax(model.logits(ids, pass), -1);
    const Tensor next = batch.ids.narrow(1, 1, ids.size(1));
    exact += {((log_p.argmax(-1) == next) & batch.answers).sum().item<double>(),
              batch.answers.sum().item<double>()};
    const Tensor nll = -log_p.gather(-1, next.unsqueeze(-1)).squeeze(-1);
    const Tensor weight = mask.to(nll.scalar_type());
    return ((nll * weight).sum(-1) / weight.sum(-1).clamp_min(1.0)).to(torch::kCPU, torch::kDouble);
  };
  for (const Batch& batch : exam.text) {
    const Tensor nll = surprise(batch, torch::ones_like(batch.answers));
    for (int64_t b = 0; b < nll.size(0); ++b) outcome.common.push_back(-nll[b].item<double>());
  }
  for (const Batch& batch : exam.recall) {
    const Tensor nll = surprise(batch, batch.answers);
    for (int64_t b = 0; b < nll.size(0); ++b) recalls.push_back(std::exp(-nll[b].item<double>()));
  }
  outcome.recall = mean(recalls);
  outcome.exact = exact.value();
  return outcome;
}

Exam prepare_exam(const Data& data, const TrainOptions& train, int64_t documents) {
  const int64_t rows = std::max<int64_t>(1, train.micro / train.context);
  const auto cut = [&](const Batch& all) {
    std::vector<Batch> parts;
    for (int64_t first = 0; first < documents; first += rows) {
      const int64_t count = std::min(rows, documents - first);
      const auto part = [&](const Tensor& x) { return x.narrow(0, first, count).to(train.on()); };
      parts.push_back({part(all.ids), part(all.weights), part(all.answers), part(all.recall)});
    }
    return parts;
  };
  return {cut(data.held_out(documents, train.context, false)),
          cut(data.held_out(documents, train.context, true))};
}

/// The teacher with layer `swapped` replaced by the student's.
Decoder swap_layer(const Checkpoint& teacher, const Checkpoint& student, int swapped) {
  Checkpoint model = teacher;
  model.config.family = student.config.family;
  model.config.lightning = student.config.lightning;
  model.config.mixers[static_cast<size_t>(swapped)] = MixerKind::lightning;
  for (const auto& [name, shape] : mixer_shapes(model.config, swapped))
    model.weights[name] = student.weights.at(name);
  return model.decoder();
}

std::vector<int> read_layers(const std::string& text, int layers) {
  std::vector<int> list;
  for (const std::string& word : CLI::detail::split(text, ',')) {
    if (word.empty()) continue;
    int layer = word == "last" ? layers - 1 : -1;
    if (layer < 0 && !CLI::detail::lexical_cast(word, layer))
      throw UsageError(fmt::format("--keep holds \"{}\"; expected layers or \"last\"", word));
    if (layer < 0 || layer >= layers)
      throw UsageError(
          fmt::format("--keep holds layer {}; the teacher has 0 to {}", layer, layers - 1));
    list.push_back(layer);
  }
  return list;
}

void SelectCommand::run() {
  flags.prepare();
  const torch::Device on = flags.train.on();
  const Checkpoint from = read_checkpoint(teacher, on), to = read_checkpoint(student, on);
  const int layers = from.config.layers();
  const Exam exam = prepare_exam(Data(flags.data, teacher), flags.train, documents);
  const Pass pass{.type = flags.train.product_type(), .sparse = false};
  const Outcome whole = take(exam, from.decoder(), pass);
  LayerScores scores;
  std::vector<std::vector<double>> common;
  Json rows = Json::array();
  for (int layer = 0; layer < layers; ++layer) {
    const Outcome one = take(exam, swap_layer(from, to, layer), pass);
    common.push_back(one.common);
    scores.common.push_back(mean(one.common));
    scores.recall.push_back(one.recall);
    rows.push_back({{"layer", layer},
                    {"common", mean(one.common)},
                    {"recall", one.recall},
                    {"exact", one.exact}});
    fmt::print(stderr, "without layer {}: common {:.4f}, recall {:.4f} (exact {:.3f})\n", layer,
               mean(one.common), one.recall, one.exact);
  }
  constexpr double kPaper = 1e-6;
  double chosen_epsilon = layers > 1 ? sampling_error(common) : 0.0;
  if (epsilon != "auto" &&
      (!CLI::detail::lexical_cast(epsilon, chosen_epsilon) || chosen_epsilon <= 0.0))
    throw UsageError(fmt::format("--eps is \"{}\"; expected auto or a positive number", epsilon));
  const std::vector<double> score = importance(scores, chosen_epsilon);
  const std::vector<double> paper = importance(scores, kPaper);
  for (int layer = 0; layer < layers; ++layer) {
    rows[static_cast<size_t>(layer)]["importance"] = score[static_cast<size_t>(layer)];
    rows[static_cast<size_t>(layer)]["importance_paper"] = paper[static_cast<size_t>(layer)];
  }
  const auto always = read_layers(keep, layers);
  const int count =
      std::max({1, static_cast<int>(layers * ratio), static_cast<int>(always.size())});
  const std::vector<int> chosen = choose_layers(ranking(score), count, always);
  const Json report = {
      {"layers", chosen},
      {"epsilon", chosen_epsilon},
      {"ranking", ranking(score)},
      {"ranking_paper", ranking(paper)},
      {"teacher",
       {{"common", mean(whole.common)}, {"recall", whole.recall}, {"exact", whole.exact}}},
      {"swapped", rows}};
  std::ofstream(flags.train.out) << report.dump(2) << "\n";
  fmt::print(stderr, "teacher: common {:.4f}, recall {:.4f} (exact {:.3f})\n", mean(whole.common),
             whole.recall, whole.exact);
  fmt::print(
      "kept as attention: {}; ranking with epsilon {:.2g}: {}; with the paper's {:.0e}: {}\n",
      fmt::join(chosen, ","), chosen_epsilon, fmt::join(ranking(score), ","), kPaper,
      fmt::join(ranking(paper), ","));
}

}  // namespace

void add_select(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "select", "Choose the layers that stay attention, by swapping one at a time");
  auto select = std::make_shared<SelectCommand>();
  TrainFlags& flags = select->flags;
  command.add_option("--teacher", select->teacher, "model directory of the transformer")
      ->required();
  command.add_option("--student", select->student, "model directory that align made")->required();
  command.add_option("--out", flags.train.out, "JSON report to write")->required();
  command.add_option("--data", flags.data.data, "packed text, whose held-out end is used");
  command.add_option("--ratio", select->ratio, "share of the layers to keep")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--keep", select->keep, "layers to keep whatever they score, e.g. 0,last");
  command
      .add_option(
          "--eps", select->epsilon,
          "what is added to the loss of common sense: auto (its sampling error) or a number")
      ->capture_default_str();
  command.add_option("--documents", select->documents, "held-out documents of each kind")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  flags.add_machine(command);
  command.callback([select] { select->run(); });
}

}  // namespace sala::halo
