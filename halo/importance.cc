#include "importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace sala::halo {

std::vector<double> importance(const LayerScores& scores, double epsilon) {
  const double best_recall = *std::ranges::max_element(scores.recall);
  const double best_common = *std::ranges::max_element(scores.common);
  std::vector<double> all;
  for (size_t i = 0; i < scores.recall.size(); ++i)
    all.push_back((best_recall - scores.recall[i]) / (best_common - scores.common[i] + epsilon));
  return all;
}

std::vector<int> ranking(const std::vector<double>& importance) {
  std::vector<int> layers(importance.size());
  std::iota(layers.begin(), layers.end(), 0);
  std::ranges::stable_sort(layers, std::ranges::greater{},
                           [&](int layer) { return importance[static_cast<size_t>(layer)]; });
  return layers;
}

std::vector<int> choose_layers(const std::vector<int>& ranked, int count,
                               const std::vector<int>& always) {
  std::vector<int> chosen = always;
  for (const int layer : ranked)
    if (static_cast<int>(chosen.size()) < count && std::ranges::find(chosen, layer) == chosen.end())
      chosen.push_back(layer);
  std::ranges::sort(chosen);
  return chosen;
}

double sampling_error(const std::vector<std::vector<double>>& common) {
  const auto mean = [](const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  };
  const auto best = std::ranges::max_element(common, {}, mean);
  double sum = 0.0;
  int others = 0;
  for (auto layer = common.begin(); layer != common.end(); ++layer) {
    if (layer == best) continue;
    std::vector<double> differences;
    for (size_t d = 0; d < layer->size(); ++d) differences.push_back((*best)[d] - (*layer)[d]);
    const double center = mean(differences);
    double squares = 0.0;
    for (const double x : differences) squares += (x - center) * (x - center);
    const auto n = static_cast<double>(differences.size());
    SALA_CHECK(n > 1, "{} documents", n);
    sum += std::sqrt(squares / (n - 1.0) / n);
    ++others;
  }
  return others > 0 ? sum / others : 0.0;
}

}  // namespace sala::halo
