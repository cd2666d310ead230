// Gradients of the custom operations against central differences in double, and what they compute
// against the plainest formulas.
#include "ops.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention.h"
#include "lightning.h"
#include "model/decay.h"

namespace sala::halo {
namespace {

using Op = std::function<Tensor(const std::vector<Tensor>&)>;

Tensor random(std::vector<int64_t> shape) { return torch::randn(shape, torch::kDouble); }

/// The largest difference between the gradients of sum(op * weights) and central differences,
/// relative to the largest gradient.
double gradient_error(const Op& op, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.clone().requires_grad_(true));
  const Tensor y = op(leaves);
  const Tensor weights = random(y.sizes().vec());
  (y * weights).sum().backward();
  const torch::NoGradGuard no_grad;
  const double step = 1e-6;
  double worst = 0.0;
  for (const Tensor& leaf : leaves) {
    const Tensor flat = leaf.view(-1);
    const Tensor found = leaf.grad().reshape(-1);
    const double scale = found.abs().max().item<double>() + 1e-12;
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double old = flat[i].item<double>();
      flat[i] = old + step;
      const double above = (op(leaves) * weights).sum().item<double>();
      flat[i] = old - step;
      const double below = (op(leaves) * weights).sum().item<double>();
      flat[i] = old;
      const double want = (above - below) / (2 * step);
      worst = std::max(worst, std::abs(found[i].item<double>() - want) / scale);
    }
  }
  return worst;
}

class Gradients : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(1); }
};

TEST_F(Gradients, RmsNorm) {
  const Op op = [](const auto& x) { return rms_norm(x[0], x[1], 1e-6); };
  EXPECT_LT(gradient_error(op, {random({2, 3, 8}), random({8})}), 1e-7);
}

TEST_F(Gradients, Linear) {
  const Op op = [](const auto& x) { return linear(x[0], x[1], torch::kDouble); };
  EXPECT_LT(gradient_error(op, {random({2, 3, 8}), random({5, 8})}), 1e-7);
}

TEST_F(Gradients, Rope) {
  const Tensor angle = random({5, 3});
  const Op op = [&](const auto& x) { return rope(x[0], angle.cos(), angle.sin()); };
  EXPECT_LT(gradient_error(op, {random({2, 5, 2, 6})}), 1e-7);
}

TEST_F(Gradients, Lightning) {
  // Longer than a chunk, and not a multiple of one.
  const Op op = [](const auto& x) {
    return lightning(x[0], x[1], x[2], decay_slopes(3), 0.5, torch::kDouble);
  };
  const std::vector<int64_t> shape = {1, 70, 3, 2};
  EXPECT_LT(gradient_error(op, {random(shape), random(shape), random(shape)}), 1e-6);
}

TEST_F(Gradients, Attention) {
  const Op op = [](const auto& x) { return attention(x[0], x[1], x[2], {}, torch::kDouble); };
  EXPECT_LT(gradient_error(op, {random({2, 9, 4, 2}), random({2, 9, 2, 2}), random({2, 9, 2, 2})}),
            1e-6);
}

TEST_F(Gradients, AttentionOverChosenBlocks) {
  // The choice is fixed, as it is in training: nothing in it is differentiated.
  const Tensor q = random({1, 24, 4, 2}), k = random({1, 24, 2, 2});
  const SparseConfig sparse = {.kernel_size = 2,
                               .kernel_stride = 1,
                               .block_size = 4,
                               .init_blocks = 1,
                               .window_size = 4,
                               .topk = 1,
                               .dense_len = 0};
  const BlockChoice blocks = choose_blocks(q, k, sparse);
  ASSERT_LT(blocks.chosen.sum().item<int64_t>(), 24 * 7);  // some are left out
  const Op op = [&](const auto& x) { return attention(x[0], x[1], x[2], blocks, torch::kDouble); };
  EXPECT_LT(gradient_error(op, {q, k, random({1, 24, 2, 2})}), 1e-6);
}

/// index_loss by its formula, a query and a head at a time; what attention reads is a constant.
Tensor plain_index_loss(const Tensor& q, const Tensor& k, const Tensor& weights) {
  Tensor loss = torch::zeros({}, torch::kDouble);
  for (int64_t b = 0; b < q.size(0); ++b)
    for (int64_t g = 0; g < 2; ++g)
      for (int64_t t = 3; t < q.size(1); ++t) {
        const Tensor keys = k[b].narrow(0, 0, t + 1).select(1, g);
        const Tensor means = keys.unfold(0, 4, 2).mean(-1);
        Tensor read = torch::zeros({t + 1}, torch::kDouble);
        Tensor votes = torch::zeros({means.size(0)}, torch::kDouble);
        for (int64_t h = 2 * g; h < 2 * g + 2; ++h) {
          read += torch::softmax(torch::mv(keys, q[b][t][h]) / std::sqrt(2.0), 0).detach() / 2;
          votes = votes + torch::softmax(torch::mv(means, q[b][t][h]) / std::sqrt(2.0), 0) / 2;
        }
        loss = loss - (read.unfold(0, 4, 2).sum(-1) * votes.log()).sum() * weights[b][t] / 2;
      }
  return loss;
}

TEST_F(Gradients, IndexLossAndWhatItIs) {
  const SparseConfig sparse = {.kernel_size = 4, .kernel_stride = 2, .block_size = 8};
  const Tensor weights = random({2, 13}).abs();
  const Tensor q = random({2, 13, 4, 2}).requires_grad_(true);
  const Tensor k = random({2, 13, 2, 2}).requires_grad_(true);
  const Tensor loss = index_loss(q, k, sparse, weights, torch::kDouble);
  const Tensor want = plain_index_loss(q, k, weights);
  EXPECT_NEAR(loss.item<double>(), want.item<double>(), 1e-12);
  const auto got_gradients = torch::autograd::grad({loss}, {q, k});
  const auto gradients = torch::autograd::grad({want}, {q, k});
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_GT(gradients[i].abs().max().item<double>(), 1e-3);
    EXPECT_LT((got_gradients[i] - gradients[i]).abs().max().item<double>(), 1e-12);
  }
}

TEST(Lightning, IsTheRecurrence) {
  torch::manual_seed(2);
  const std::vector<int64_t> shape = {2, 150, 3, 4};
  const Tensor q = random(shape), k = random(shape), v = random(shape);
  const std::vector<double> slopes = decay_slopes(3);
  const Tensor got = lightning(q, k, v, slopes, 0.3, torch::kDouble);
  const Tensor decay = torch::tensor(slopes, torch::kDouble).neg().exp().view({1, 3, 1, 1});
  Tensor state = torch::zeros({2, 3, 4, 4}, torch::kDouble);
  for (int64_t t = 0; t < shape[1]; ++t) {
    state = decay * state + k.select(1, t).unsqueeze(-1) * v.select(1, t).unsqueeze(-2);
    const Tensor want = 0.3 * torch::matmul(q.select(1, t).unsqueeze(-2), state).squeeze(-2);
    ASSERT_LT((got.select(1, t) - want).abs().max().item<double>(), 1e-12) << "position " << t;
  }
}

TEST(Attention, TilesAreNotSeen) {
  torch::manual_seed(3);
  const int64_t length = 600;  // three tiles
  const Tensor q = random({1, length, 2, 4}), k = random({1, length, 1, 4}),
               v = random({1, length, 1, 4});
  const Tensor got = attention(q, k, v, {}, torch::kDouble);
  const Tensor future = torch::ones({length, length}, torch::kBool).triu(1);
  for (int64_t h = 0; h < 2; ++h) {
    const Tensor s = torch::matmul(q.select(2, h), k.select(2, 0).transpose(1, 2)) / 2.0;
    const Tensor p = torch::softmax(s.masked_fill(future, -INFINITY), -1);
    const Tensor want = torch::matmul(p, v.select(2, 0));
    EXPECT_LT((got.select(2, h) - want).abs().max().item<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace sala::halo
