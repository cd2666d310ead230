#include "command.h"

#include <thread>

#include "base/error.h"
#include "base/parallel.h"

namespace sala::halo {

void TrainFlags::add_to(CLI::App& command) {
  const auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  command.add_option("--out", train.out, "model directory to make")->required();
  command.add_option("--data", data.data, "packed text (sala-halo pack); none: generated prose");
  command.add_option("--recall", data.recall, "share of the sequences that are recall documents")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
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

void TrainFlags::prepare() const {
  train.product_type();
  if (train.device != "cpu" && train.device.rfind("cuda", 0) != 0)
    throw UsageError(fmt::format("--device is \"{}\"; expected cpu or cuda", train.device));
  if (train.device != "cpu" && !torch::cuda::is_available())
    fail("--device is {}; this libtorch sees no GPU", train.device);
  torch::set_num_threads(threads > 0 ? threads : available_cores());
}

}  // namespace sala::halo
