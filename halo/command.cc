#include "command.h"

#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"

namespace sala::halo {
namespace {

std::vector<TaskShare> read_tasks(const std::string& text) {
  std::vector<TaskShare> tasks;
  for (const std::string& word : CLI::detail::split(text, ',')) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const auto known =
        std::ranges::find(usual_tasks(), name, [](const TaskShare& t) { return name_of(t.task); });
    int64_t share = 0;
    if (known == usual_tasks().end() || equals == std::string::npos ||
        !CLI::detail::lexical_cast(word.substr(equals + 1), share) || share < 1)
      throw UsageError(fmt::format(
          "--tasks holds \"{}\"; expected a task and its share, e.g. key_value=3,copy=1", word));
    tasks.push_back({known->task, share});
  }
  return tasks;
}

}  // namespace

void TrainFlags::add_to(CLI::App& command) {
  const auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  command.add_option("--out", train.out, "model directory to make")->required();
  command.add_option("--data", data.data, "packed text (sala-halo pack); none: generated prose");
  command.add_option("--recall", data.recall, "share of the sequences that are recall documents")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--tasks", tasks,
                     "kinds of recall documents with their shares, e.g. key_value=3,copy=1");
  command.add_option("--seed", data.seed, "which sequences, in which order")->capture_default_str();
  command.add_option("--steps", train.schedule.steps, "steps of the optimizer")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--batch", train.batch, "sequences in a step")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--lr", train.schedule.peak, "highest learning rate")->capture_default_str();
  command.add_option("--min-lr", train.schedule.last, "the last one")->capture_default_str();
  command.add_option("--warmup", train.schedule.warmup, "steps until the highest")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--time-limit", train.time_limit,
                     "seconds after which a checkpoint is written; 0: none");
  command.add_flag("--resume", train.resume, "go on from the last checkpoint in --out");
  add_machine(command);
}

void TrainFlags::add_machine(CLI::App& command) {
  const auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  command.add_option("--ctx", train.context, "tokens in a sequence")
      ->check(positive)
      ->capture_default_str();
  command
      .add_option("--micro", train.micro,
                  "tokens in one forward and backward: memory, never results")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--device", train.device, "cpu or cuda")->capture_default_str();
  command.add_option("--dtype", train.type, "type of operands in products: f32 or bf16")
      ->capture_default_str();
  command.add_option("--threads", threads, "threads; 0 takes every core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

void TrainFlags::prepare() {
  if (!tasks.empty()) data.tasks = read_tasks(tasks);
  train.product_type();
  if (train.device != "cpu" && train.device.rfind("cuda", 0) != 0)
    throw UsageError(fmt::format("--device is \"{}\"; expected cpu or cuda", train.device));
  if (train.device != "cpu" && !torch::cuda::is_available())
    fail("--device is {}; this libtorch sees no GPU", train.device);
  torch::set_num_threads(threads > 0 ? threads : available_cores());
}

}  // namespace sala::halo
