#include <algorithm>
#include <cmath>

#include "ops/math.h"
#include "ops/reference.h"

namespace sala::reference {
namespace {

double dot(const std::vector<double>& x, const std::vector<float>& w) {
  double sum = 0;
  for (size_t k = 0; k < x.size(); ++k) sum += x[k] * static_cast<double>(w[k]);
  return sum;
}

double inverse_rms(const float* x, int64_t n, float eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return 1 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(eps));
}

}  // namespace

void embed_row(In ids, In drawn, const Weight& table, float scale, Out h, int64_t t) {
  const int id =
      embedded_row(ids.as<int32_t>(), static_cast<const int32_t*>(drawn.data), drawn.dim[0], t);
  SALA_CHECK(id >= kNoToken && id < table.rows, "token {} is {} of {}", t, id, table.rows);
  const std::span<float> out(h.row<float>(t), static_cast<size_t>(table.cols));
  if (id == kNoToken)
    std::ranges::fill(out, 0.0f);
  else
    unpack_row(table, 0, id, out);
  for (float& x : out) x *= scale;
}

void embed(Device&, In ids, In drawn, const Weight& table, float scale, Out h) {
  for (int64_t t = 0; t < h.dim[0]; ++t) embed_row(ids, drawn, table, scale, h, t);
}

void residual_norm(Device&, Out h, In a, float scale, In w, float eps, Out x) {
  const int64_t D = h.dim[1];
  const auto* weight = w.as<float>();
  for (int64_t t = 0; t < h.dim[0]; ++t) {
    float* row = h.row<float>(t);
    if (!a.empty())
      for (int64_t i = 0; i < D; ++i)
        row[i] = static_cast<float>(row[i] + static_cast<double>(scale) * a.row<float>(t)[i]);
    const double inverse = inverse_rms(row, D, eps);
    for (int64_t i = 0; i < D; ++i)
      x.row<float>(t)[i] = static_cast<float>(row[i] * inverse * weight[i]);
  }
}

std::vector<double> activations(const float* x, int64_t cols, Compute compute, int64_t group) {
  std::vector<double> row(x, x + cols);
  if (compute == Compute::bf16)
    for (double& value : row) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
  if (compute == Compute::int8) {
    for (int64_t first = 0; first < cols; first += group) {
      const int64_t last = std::min<int64_t>(cols, first + group);
      float largest = 0;
      for (int64_t k = first; k < last; ++k) largest = std::max(largest, std::abs(x[k]));
      const float scale = largest / 127;
      for (int64_t k = first; k < last; ++k) {
        const float code = scale > 0 ? std::nearbyint(x[k] / scale) : 0.0f;
        row[k] = static_cast<double>(scale) * static_cast<double>(code);
      }
    }
  }
  return row;
}

void matmul(Device&, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y) {
  std::vector<float> first(static_cast<size_t>(w.cols));
  std::vector<float> second(static_cast<size_t>(w.cols));
  std::vector<std::vector<double>> inputs;
  for (int64_t t = 0; t < x.dim[0]; ++t)
    inputs.push_back(activations(x.row<float>(t), w.cols, compute, activation_columns(w.type)));
  for (int64_t n = 0; n < w.rows; ++n) {
    unpack_row(w, 0, n, first);
    if (w.paired) unpack_row(w, 1, n, second);
    for (int64_t t = 0; t < x.dim[0]; ++t) {
      double sum = dot(inputs[t], first);
      if (epilogue == Epilogue::swiglu) sum = sum / (1 + std::exp(-sum)) * dot(inputs[t], second);
      y.row<float>(t)[n] = static_cast<float>(sum);
    }
  }
}

void rope_table(Device&, In positions, In inverse_frequency, RopeFactor factor, Out cos, Out sin) {
  for (int64_t t = 0; t < cos.dim[0]; ++t) {
    const auto position = static_cast<float>(positions.as<int32_t>()[t]);
    const float scale = rope_factor(factor.scale, factor.log_base, position);
    for (int64_t i = 0; i < cos.dim[1]; ++i) {
      const double angle = position * inverse_frequency.as<float>()[i];
      cos.row<float>(t)[i] = static_cast<float>(std::cos(angle)) * scale;
      sin.row<float>(t)[i] = static_cast<float>(std::sin(angle)) * scale;
    }
  }
}

void qk_norm_rope(Device&, Out x, int heads, In w, float eps, In cos, In sin) {
  const int64_t d = x.dim[1] / heads;
  const int64_t half = d / 2;
  std::vector<double> y(static_cast<size_t>(d));
  for (int64_t t = 0; t < x.dim[0]; ++t)
    for (int h = 0; h < heads; ++h) {
      float* head = x.row<float>(t) + h * d;
      y.assign(head, head + d);
      if (!w.empty()) {
        const double inverse = inverse_rms(head, d, eps);
        for (int64_t i = 0; i < d; ++i) y[i] *= inverse * w.as<float>()[i];
      }
      for (int64_t i = 0; !cos.empty() && i < half; ++i) {
        const double c = cos.row<float>(t)[i];
        const double s = sin.row<float>(t)[i];
        const double a = y[i];
        const double b = y[i + half];
        y[i] = a * c - b * s;
        y[i + half] = b * c + a * s;
      }
      for (int64_t i = 0; i < d; ++i) head[i] = static_cast<float>(y[i]);
    }
}

}  // namespace sala::reference
