#pragma once

#include "decoder.h"
#include "trainer.h"

namespace sala::halo {

/// Next-token cross-entropy: adds the gradient of (sum(weights * nll) + more) / step.weight.
/// Reports "loss" (weighted nats), "text" (nats a token of text) and "recall" (share of the
/// answers' tokens that are the most likely ones) and "exact" (share of the answers all of whose
/// tokens are).
Metrics cross_entropy(const Tensor& logits, const Batch& batch, const StepSize& step,
                      const Tensor& more = {});

/// Forward KL divergence of the student from the teacher at temperature 1, the predictions weighted
/// as in cross_entropy. Reports "loss" (the KL) and what cross_entropy reports of the student.
Metrics divergence(const Tensor& student, const Tensor& teacher, const Batch& batch,
                   const StepSize& step);

/// What cross_entropy reports, without a gradient.
Metrics predictions(const Tensor& logits, const Batch& batch);

/// Stage 1 of HALO on one batch: at every layer the student's mixer gets the teacher's normed input
/// and learns the teacher's mixer's output; the residual stream goes on with the teacher's, so no
/// layer sees another's error. Adds the gradient of the mean squared error over layers and values.
/// Reports "loss", and "layer_i": the squared error relative to the output's square.
Metrics align_layers(const Decoder& teacher, const Decoder& student, const Pass& pass,
                     const Batch& batch, const StepSize& step);

}  // namespace sala::halo
