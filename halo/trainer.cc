#include "trainer.h"

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "checkpoint.h"
#include "curves.h"

namespace sala::halo {
namespace {

constexpr double kReportSeconds = 10.0, kCheckpointSeconds = 120.0;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string clock_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

torch::ScalarType TrainOptions::product_type() const {
  if (type == "f32") return torch::kFloat;
  if (type == "bf16") return torch::kBFloat16;
  throw UsageError(fmt::format("--dtype is \"{}\"; expected f32 or bf16", type));
}

Trainer::Trainer(TrainOptions options, const Data& data, const Weights& trained,
                 std::function<void()> save)
    : options_(std::move(options)),
      data_(data),
      optimizer_(trained, options_.weight_decay),
      save_(std::move(save)) {
  namespace fs = std::filesystem;
  fs::create_directories(options_.out);
  if (!options_.resume) {
    fs::remove(state_file());
    fs::remove(options_.out / "log.jsonl");
  } else if (fs::exists(state_file())) {
    const Weights state = read_tensors(state_file());
    optimizer_.load(state, state_file().string());
    const Tensor at = state.at("trainer");
    step_ = first_step_ = reported_step_ = static_cast<int64_t>(at[0].item<double>());
    seconds_before_ = at[1].item<double>();
    keep_log();
    fmt::print(stderr, "{}: goes on from step {}\n", options_.out.string(), step_);
  } else if (fs::exists(options_.out / "model.safetensors")) {
    fmt::print(stderr, "{}: is finished\n", options_.out.string());
    needed_ = false;
  }
}

/// Takes out of the log what was reported after the checkpoint and will be again.
void Trainer::keep_log() const {
  std::string kept;
  std::ifstream log(options_.out / "log.jsonl");
  for (std::string line; std::getline(log, line);)
    if (parse_json(line, "log.jsonl").at("step").get<int64_t>() <= step_) kept += line + "\n";
  std::ofstream(options_.out / "log.jsonl") << kept;
}

Metrics Trainer::step(const Objective& objective) {
  const Batch batch = data_.draw(step_ * options_.batch, options_.batch, options_.context);
  const StepSize size{static_cast<double>(batch.weights.numel()),
                      batch.weights.sum().item<double>()};
  const int64_t rows = std::max<int64_t>(1, options_.micro / options_.context);
  Metrics metrics;
  for (int64_t first = 0; first < options_.batch; first += rows) {
    const int64_t count = std::min(rows, options_.batch - first);
    const auto part = [&](const Tensor& x) { return x.narrow(0, first, count).to(options_.on()); };
    const Batch some{part(batch.ids), part(batch.weights), part(batch.answers), part(batch.recall)};
    for (const auto& [name, mean] : objective(some, size)) metrics[name] += mean;
  }
  return metrics;
}

bool Trainer::run(const Objective& objective) {
  start_ = reported_ = Clock::now();
  auto saved = start_;
  while (step_ < options_.schedule.steps) {
    const Metrics metrics = step(objective);
    const double gradient = optimizer_.step(options_.schedule.at(step_));
    ++step_;
    for (const auto& [name, mean] : metrics) since_report_[name] += mean;
    if (!std::isfinite(metrics.at("loss").value()))
      fail("step {}: the loss is {}; try a smaller --lr", step_, metrics.at("loss").value());
    if (step_ == 1 || seconds_since(reported_) >= kReportSeconds ||
        step_ == options_.schedule.steps)
      report(gradient);
    const bool late = options_.time_limit > 0.0 && seconds_since(start_) >= options_.time_limit;
    if (late && step_ < options_.schedule.steps) {
      checkpoint();
      save_();
      fmt::print(stderr, "{}: the time is over at step {} of {}; --resume goes on\n",
                 options_.out.string(), step_, options_.schedule.steps);
      return false;
    }
    if (seconds_since(saved) >= kCheckpointSeconds) {
      checkpoint();
      saved = Clock::now();
    }
  }
  save_();
  std::filesystem::remove(state_file());
  return true;
}

void Trainer::report(double gradient) {
  const double seconds = seconds_since(start_);
  const double rate =
      static_cast<double>((step_ - reported_step_) * options_.batch * options_.context) /
      std::max(1e-9, seconds_since(reported_));
  const double left = seconds / static_cast<double>(step_ - first_step_) *
                      static_cast<double>(options_.schedule.steps - step_);
  Json line = {{"step", step_},
               {"tokens", step_ * options_.batch * options_.context},
               {"seconds", seconds_before_ + seconds},
               {"learning_rate", options_.schedule.at(step_ - 1)},
               {"gradient_norm", gradient},
               {"tokens_per_second", rate}};
  std::string text;
  for (const auto& [name, mean] : since_report_) {
    if (mean.weight <= 0.0) continue;
    line[name] = mean.value();
    text += fmt::format(" {} {:.4f}", name, mean.value());
  }
  fmt::print(stderr, "step {}/{}{} | {:.0f} tokens/s, {} left\n", step_, options_.schedule.steps,
             text, rate, clock_text(left));
  std::ofstream(options_.out / "log.jsonl", std::ios::app) << line.dump() << "\n";
  write_curves(options_.out / "log.jsonl", options_.out / "loss.svg");
  since_report_.clear();
  reported_ = Clock::now();
  reported_step_ = step_;
}

void Trainer::checkpoint() {
  Weights state = optimizer_.state();
  state["trainer"] = torch::tensor(
      {static_cast<double>(step_), seconds_before_ + seconds_since(start_)}, torch::kDouble);
  write_safetensors(state_file(), state);
}

}  // namespace sala::halo
