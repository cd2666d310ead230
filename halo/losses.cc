#include "losses.h"

#include "base/error.h"

namespace sala::halo {
namespace {

Mean mean_over(const Tensor& values, const Tensor& mask) {
  const Tensor weight = mask.to(torch::kFloat);
  return {(values * weight).sum().item<double>(), weight.sum().item<double>()};
}

/// -log p [B, T] of the tokens that came.
Tensor surprise(const Tensor& log_p, const Batch& batch) {
  return -log_p.gather(-1, batch.ids.narrow(1, 1, log_p.size(1)).unsqueeze(-1)).squeeze(-1);
}

/// Answers whose tokens are all right, among all: the runs of marked predictions.
Mean whole_answers(const Tensor& right, const Tensor& answers) {
  const Tensor marked = answers.to(torch::kLong);
  const Tensor before = torch::constant_pad_nd(marked, {1, 0}).narrow(1, 0, marked.size(1));
  const Tensor number = (marked * (1 - before)).view({-1}).cumsum(0);  // of the run, from 1 on
  const auto runs = number.numel() > 0 ? number[-1].item<int64_t>() : 0;
  const Tensor wrong = torch::zeros({runs + 1}, number.options());
  wrong.scatter_add_(0, number, (answers & right.logical_not()).to(torch::kLong).view({-1}));
  const auto failed = (wrong > 0).sum().item<int64_t>();
  return {static_cast<double>(runs - failed), static_cast<double>(runs)};
}

Metrics measure(const Tensor& log_p, const Tensor& nll, const Batch& batch) {
  const torch::NoGradGuard no_grad;
  const Tensor right = log_p.argmax(-1) == batch.ids.narrow(1, 1, log_p.size(1));
  const Tensor is_text = batch.recall.logical_not().expand_as(batch.weights);
  return {
      {"loss", {(nll * batch.weights).sum().item<double>(), batch.weights.sum().item<double>()}},
      {"text", mean_over(nll.detach(), is_text)},
      {"recall", mean_over(right.to(torch::kFloat), batch.answers)},
      {"exact", whole_answers(right, batch.answers)}};
}

}  // namespace

Metrics cross_entropy(const Tensor& logits, const Batch& batch, const StepSize& step,
                      const Tensor& more) {
  const Tensor log_p = torch::log_softmax(logits, -1);
  const Tensor nll = surprise(log_p, batch);
  const Tensor sum = (nll * batch.weights).sum();
  ((more.defined() ? sum + more : sum) / step.weight).backward();
  return measure(log_p.detach(), nll.detach(), batch);
}

Metrics predictions(const Tensor& logits, const Batch& batch) {
  const Tensor log_p = torch::log_softmax(logits, -1);
  return measure(log_p, surprise(log_p, batch), batch);
}

Metrics divergence(const Tensor& student, const Tensor& teacher, const Batch& batch,
                   const StepSize& step) {
  const Tensor log_s = torch::log_softmax(student, -1);
  const Tensor log_t = torch::log_softmax(teacher, -1);
  const Tensor kl = (log_t.exp() * (log_t - log_s)).sum(-1);
  ((kl * batch.weights).sum() / step.weight).backward();
  Metrics metrics = measure(log_s.detach(), surprise(log_s.detach(), batch), batch);
  metrics["nll"] = metrics["loss"];
  metrics["loss"] = {(kl.detach() * batch.weights).sum().item<double>(),
                     batch.weights.sum().item<double>()};
  return metrics;
}

Metrics align_layers(const Decoder& teacher, const Decoder& student, const Pass& pass,
                     const Batch& batch, const StepSize& step) {
  const int layers = teacher.config().layers();
  Metrics metrics;
  const auto no_gradient = [](const auto& compute) {
    const torch::NoGradGuard guard;
    return compute();
  };
  const Tensor ids = batch.ids.narrow(1, 0, batch.weights.size(1));
  Tensor h = no_gradient([&] { return teacher.embed(ids); });
  for (int layer = 0; layer < layers; ++layer) {
    const Tensor x = no_gradient([&] { return teacher.mixer_input(h, layer); });
    const Tensor wanted = no_gradient([&] { return teacher.mix(x, layer, pass); });
    const Tensor error = (student.mix(x, layer, pass) - wanted).square().sum();
    const double width = static_cast<double>(wanted.size(2));
    (error / (step.predictions * width * layers)).backward();
    const double squares = error.item<double>();
    metrics["loss"] += {squares / layers, static_cast<double>(wanted.numel()) / layers};
    metrics[fmt::format("layer_{}", layer)] += {squares, wanted.square().sum().item<double>()};
    h = no_gradient([&] { return teacher.after(h, wanted, layer, pass); });
  }
  return metrics;
}

}  // namespace sala::halo
