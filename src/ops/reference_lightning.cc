#include <cmath>

#include "ops/reference.h"

namespace sala::reference {
namespace {

/// What one head remembers, and the powers 0..cell of its decay.
struct Head {
  float* state;         // [d, d]
  const float* keys;    // [d, cell]
  const float* values;  // [cell, d]
  const std::vector<float>& decay;
  int64_t d;

  int64_t cell() const { return static_cast<int64_t>(decay.size()) - 1; }
};

std::vector<float> decays(float slope, int cell) {
  std::vector<float> powers;
  for (int n = 0; n <= cell; ++n)
    powers.push_back(static_cast<float>(std::exp(-static_cast<double>(slope) * n)));
  return powers;
}

/// o [d] of the token at offset i of its cell, without scale.
void mix(const Head& head, const float* q, int64_t i, double* o) {
  for (int64_t v = 0; v < head.d; ++v) {
    double sum = 0;
    for (int64_t c = 0; c < head.d; ++c)
      sum += static_cast<double>(q[c]) * head.state[c * head.d + v];
    o[v] = static_cast<double>(head.decay[i + 1]) * sum;
  }
  for (int64_t j = 0; j <= i; ++j) {
    double sum = 0;
    for (int64_t c = 0; c < head.d; ++c)
      sum += static_cast<double>(q[c]) * head.keys[c * head.cell() + j];
    for (int64_t v = 0; v < head.d; ++v)
      o[v] += static_cast<double>(head.decay[i - j]) * sum * head.values[j * head.d + v];
  }
}

void fold(const Head& head) {
  for (int64_t c = 0; c < head.d; ++c)
    for (int64_t v = 0; v < head.d; ++v) {
      float& entry = head.state[c * head.d + v];
      double sum = static_cast<double>(head.decay[head.cell()]) * entry;
      for (int64_t j = 0; j < head.cell(); ++j)
        sum += static_cast<double>(head.decay[head.cell() - 1 - j]) *
               head.keys[c * head.cell() + j] * head.values[j * head.d + v];
      entry = static_cast<float>(sum);
    }
}

/// Norm and gate over the heads of one token.
void finish(const LightningForm& form, const float* gate, std::vector<double>& o) {
  if (!form.norm.empty()) {
    double sum = 0;
    for (const double x : o) sum += x * x;
    const double inverse =
        1 / std::sqrt(sum / static_cast<double>(o.size()) + static_cast<double>(form.eps));
    for (size_t i = 0; i < o.size(); ++i) o[i] *= inverse * form.norm.as<float>()[i];
  }
  if (gate == nullptr) return;
  for (size_t i = 0; i < o.size(); ++i) o[i] /= 1 + std::exp(-static_cast<double>(gate[i]));
}

}  // namespace

void lightning(Device& device, const Sequences& sequences, Out q, Out k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o) {
  norm_and_turn_heads(device, q, k, memory, form);
  const int64_t heads = memory.state.dim[1];
  const int64_t kv_heads = memory.keys.dim[1];
  const int64_t d = memory.state.dim[3];
  const int64_t cell = memory.cell;
  const auto* starts = sequences.starts.as<int32_t>();
  std::vector<std::vector<float>> decay;
  for (int64_t h = 0; h < heads; ++h)
    decay.push_back(decays(form.slopes.as<float>()[h], memory.cell));
  std::vector<double> row(static_cast<size_t>(heads * d));
  for (int64_t b = 0; b < sequences.count(); ++b) {
    const int64_t slot = sequences.slots.as<int32_t>()[b];
    float* keys = memory.keys.row<float>(slot);
    float* values = memory.values.row<float>(slot);
    for (int64_t t = starts[b]; t < starts[b + 1]; ++t) {
      const int64_t i = sequences.positions.as<int32_t>()[t] % cell;
      for (int64_t g = 0; g < kv_heads; ++g)
        for (int64_t c = 0; c < d; ++c) {
          keys[(g * d + c) * cell + i] = k.row<float>(t)[g * d + c];
          values[(g * cell + i) * d + c] = v.row<float>(t)[g * d + c];
        }
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t g = h / (heads / kv_heads);
        const Head head{.state = memory.state.row<float>(slot) + h * d * d,
                        .keys = keys + g * d * cell,
                        .values = values + g * cell * d,
                        .decay = decay[h],
                        .d = d};
        mix(head, q.row<float>(t) + h * d, i, row.data() + h * d);
        if (i == cell - 1) fold(head);
      }
      for (double& x : row) x *= static_cast<double>(form.scale);
      finish(form, gate.empty() ? nullptr : gate.row<float>(t), row);
      for (size_t x = 0; x < row.size(); ++x) o.row<float>(t)[x] = static_cast<float>(row[x]);
    }
  }
}

}  // namespace sala::reference
