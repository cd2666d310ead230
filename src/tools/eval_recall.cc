// sala eval niah, sala eval recall: what a model finds again, by length and depth.
#include "tools/eval_recall.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "engine/generate.h"
#include "recall/tasks.h"
#include "tools/command.h"
#include "tools/heat_map.h"
#include "tools/output_file.h"
#include "tools/progress.h"

namespace sala {
namespace {

constexpr RecallTask kNeedles[] = {RecallTask::niah_single_1,    RecallTask::niah_single_2,
                                   RecallTask::niah_single_3,    RecallTask::niah_multi_key,
                                   RecallTask::niah_multi_value, RecallTask::niah_multi_query};

/// One cell of a grid.
struct Cell {
  std::string policy;
  RecallTask task;
  int64_t length;
  double depth;
  double score = 0.0;
};

struct RecallCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  std::vector<RecallTask> tasks;
  std::vector<std::string> task_names, policies;
  std::vector<int64_t> lengths = {1024, 4096};
  std::vector<double> depths = {0.0, 0.25, 0.5, 0.75, 1.0};
  std::string haystack, svg;
  int64_t samples = 5;
  uint64_t seed = 0;
  bool json = false;

  void add_to(CLI::App& command);
  void run();
  std::vector<RecallTask> chosen_tasks() const;
  double sample(Runner& runner, const ModelFiles& files, const Filler* filler, const Cell& cell,
                int64_t number) const;
  void print(const std::vector<Cell>& cells) const;
};

/// A prompt of `length` tokens at most, and near it.
struct Prompt {
  std::vector<int> tokens;
  RecallSample::Question question;
};

Prompt make_prompt(const ModelFiles& files, RecallTask task, int64_t length, double depth,
                   const Filler& filler, uint64_t seed) {
  const Tokenizer& tokenizer = files.require_tokenizer();
  double bytes = static_cast<double>(length);
  // Text has as many tokens as the tokenizer says: guess, count, and guess again.
  for (int guess = 0;; ++guess) {
    Random random(seed);
    const RecallSample sample =
        make_recall(task, static_cast<int64_t>(bytes), depth, 1, filler, random);
    Prompt prompt{.tokens = files.raw_prefix(), .question = sample.questions[0]};
    const std::vector<int> text = tokenizer.encode(sample.context + prompt.question.text);
    prompt.tokens.insert(prompt.tokens.end(), text.begin(), text.end());
    const auto count = static_cast<double>(prompt.tokens.size()),
               wanted = static_cast<double>(length);
    const bool near = count <= wanted && count > 0.97 * wanted;
    if (near || (guess >= 8 && count <= wanted)) return prompt;
    if (guess >= 24)
      fail("--lengths holds {}: the shortest prompt of {} has {} tokens", length, name_of(task),
           prompt.tokens.size());
    bytes *= 0.99 * wanted / count;
  }
}

std::vector<RecallTask> RecallCommand::chosen_tasks() const {
  std::vector<RecallTask> chosen;
  for (const std::string& name : task_names) {
    const auto found = std::ranges::find(tasks, name, [](RecallTask t) { return name_of(t); });
    if (found == tasks.end()) {
      std::string known;
      for (const RecallTask task : tasks)
        known += (known.empty() ? "" : ", ") + std::string(name_of(task));
      throw UsageError(fmt::format("--tasks holds \"{}\"; expected some of {}", name, known));
    }
    chosen.push_back(*found);
  }
  return chosen.empty() ? tasks : chosen;
}

double RecallCommand::sample(Runner& runner, const ModelFiles& files, const Filler* filler,
                             const Cell& cell, int64_t number) const {
  const bool repeated = cell.task == RecallTask::niah_single_1;
  // The same documents for every policy, others for every cell and number.
  const uint64_t own = random_bits(
      random_bits(seed, static_cast<uint64_t>(cell.length) * 16 + static_cast<uint64_t>(cell.task)),
      static_cast<uint64_t>(number) * 4096 + static_cast<uint64_t>(std::lround(cell.depth * 1000)));
  const Prompt prompt = make_prompt(files, cell.task, cell.length, cell.depth,
                                    repeated ? Filler(repeated_sentences)
                                    : filler ? *filler
                                             : plain_prose,
                                    own);
  const std::vector<int> reply = files.require_tokenizer().encode(prompt.question.reply);
  GenerateOptions what;
  what.limit = static_cast<int64_t>(reply.size()) + 4;
  what.sampling.temperature = 0.0;
  what.stop = files.stop;
  what.stop_strings.emplace_back("\n");
  Hold hold = runner.open();
  return recall_score(prompt.question,
                      generate(runner, hold, *files.tokenizer, prompt.tokens, what).text);
}

void RecallCommand::run() {
  expect_output("--svg", svg);
  const std::vector<RecallTask> chosen = chosen_tasks();
  if (policies.empty()) policies = {model.sparse};
  for (const std::string& policy : policies) {  // a bad flag is told before minutes of loading
    model.sparse = policy;
    model.run_options();
  }
  const std::string text = haystack.empty() ? "" : read_input(haystack);
  if (!haystack.empty() && text.empty()) fail("{}: is empty", haystack);
  const Filler passages = text.empty() ? Filler(plain_prose) : passages_of(text);
  LoadedModel loaded = load_model(model, OpenText::yes);

  std::vector<Cell> cells;
  Progress bar("evaluating", "replies");
  const auto total =
      static_cast<int64_t>(policies.size() * chosen.size() * lengths.size() * depths.size()) *
      samples;
  for (const std::string& policy : policies) {
    model.sparse = policy;
    RunOptions options = model.run_options();
    constexpr int64_t kReply = 256;  // more than any reply's tokens
    options.context = *std::ranges::max_element(lengths) + kReply;
    Runner runner(*loaded.model, *loaded.device, options);
    for (const RecallTask task : chosen) {
      for (const int64_t length : lengths) {
        for (const double depth : depths) {
          Cell cell{.policy = policy, .task = task, .length = length, .depth = depth};
          for (int64_t i = 0; i < samples; ++i) {
            cell.score +=
                sample(runner, loaded.files, &passages, cell, i) / static_cast<double>(samples);
            bar.update(static_cast<int64_t>(cells.size()) * samples + i + 1, total);
          }
          cells.push_back(cell);
        }
      }
    }
  }
  bar.clear();
  print(cells);
}

void RecallCommand::print(const std::vector<Cell>& cells) const {
  Json rows = Json::array();
  std::vector<HeatMap> maps;
  // Cells come in the order of policy, task, length, depth.
  for (size_t at = 0; at < cells.size();) {
    HeatMap map{.title = fmt::format("{} ({})", name_of(cells[at].task), cells[at].policy),
                .columns = {},
                .rows = {},
                .scores = {}};
    for (const double depth : depths) map.columns.push_back(fmt::format("{:.0f} %", 100 * depth));
    for (const int64_t length : lengths) {
      map.rows.push_back(std::to_string(length));
      map.scores.emplace_back();
      for (size_t d = 0; d < depths.size(); ++d, ++at) {
        map.scores.back().push_back(cells[at].score);
        rows.push_back({{"policy", cells[at].policy},
                        {"task", name_of(cells[at].task)},
                        {"length", length},
                        {"depth", cells[at].depth},
                        {"score", cells[at].score},
                        {"n", samples}});
      }
    }
    maps.push_back(std::move(map));
  }
  if (!svg.empty()) write_output("--svg", svg, heat_maps_svg(maps));
  if (json) {
    fmt::print("{}\n", Json{{"rows", rows}}.dump());
    return;
  }
  for (const HeatMap& map : maps) {
    fmt::print("{}\n{:>9}", map.title, "tokens");
    for (const std::string& column : map.columns) fmt::print("{:>8}", column);
    fmt::print("\n");
    for (size_t r = 0; r < map.rows.size(); ++r) {
      fmt::print("{:>9}", map.rows[r]);
      for (const double score : map.scores[r]) fmt::print("{:>8.2f}", score);
      fmt::print("\n");
    }
  }
}

void RecallCommand::add_to(CLI::App& command) {
  model.add_to(command);
  command.add_option("--lengths", lengths, "tokens of the prompts")
      ->delimiter(',')
      ->check(number_from(int64_t{32}, int64_t{1} << 32))
      ->capture_default_str();
  command.add_option("--depths", depths, "where the fact lies: 0 the beginning, 1 the end")
      ->delimiter(',')
      ->check(number_from(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--policies", policies, "values of --sparse to compare")->delimiter(',');
  command.add_option("--samples", samples, "documents for each length and depth")
      ->check(number_from(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command.add_option("--seed", seed, "of the documents")->capture_default_str();
  command.add_option("--svg", svg, "heat map to write");
  command.add_flag("--json", json, "print one JSON object");
}

}  // namespace

void add_eval_recall(CLI::App& eval) {
  CLI::App& needle = *eval.add_subcommand("niah", "Facts hidden in a text, found again");
  auto niah = std::make_shared<RecallCommand>();
  niah->tasks.assign(std::begin(kNeedles), std::end(kNeedles));
  niah->add_to(needle);
  needle.add_option("--tasks", niah->task_names, "some of the six tasks [default: all]")
      ->delimiter(',');
  needle.add_option("--haystack", niah->haystack, "the text [default: generated prose]");
  read_environment(needle);
  needle.callback([niah] { niah->run(); });

  CLI::App& list =
      *eval.add_subcommand("recall", "One of the values of a long list of keys and values");
  auto recall = std::make_shared<RecallCommand>();
  recall->tasks = {RecallTask::key_value};
  recall->add_to(list);
  read_environment(list);
  list.callback([recall] { recall->run(); });
}

}  // namespace sala
