#pragma once

#include <vector>

namespace sala::halo {

/// What a teacher with one layer replaced by its Lightning mixer still can, a number a layer:
/// recall of the context, and common sense.
struct LayerScores {
  std::vector<double> recall, common;
};

/// HALO's importance of each layer as attention (arXiv 2601.22156, eq. 8):
///   s_i = (max R - R_i) / (max C - C_i + epsilon).
std::vector<double> importance(const LayerScores& scores, double epsilon);

/// Layers by falling importance, the lower one first among equals.
std::vector<int> ranking(const std::vector<double>& importance);

/// The `count` layers that stay attention, ascending: those of `always` and the first of `ranked`.
std::vector<int> choose_layers(const std::vector<int>& ranked, int count,
                               const std::vector<int>& always);

/// The standard error of the differences of C between the best layer and the others, from the
/// losses of the same documents: common[i][document]. Differences below it are noise, so it is the
/// epsilon that keeps a denominator from being one.
double sampling_error(const std::vector<std::vector<double>>& common);

}  // namespace sala::halo
