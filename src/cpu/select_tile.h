#pragma once

#include <cstdint>

namespace sala::cpu {

/// Some windows of compressed keys against the queries of a run. Columns are the heads of the
/// queries, padded with columns of zeros: all heads of a query side by side, or, where they fill
/// less than a vector and the queries fill vectors, all queries of a head.
struct SelectTile {
  int64_t d = 0;
  int64_t columns = 0, heads = 0, queries = 0;
  int64_t query_step = 0, head_step = 0;  ///< columns from a query, from a head to the next
  const float* q = nullptr;               ///< [d][columns], scaled
  const uint32_t* q_pairs = nullptr;      ///< [d / 2][columns] the same in pairs of bf16, and then
  int64_t first = 0;                      ///< index of the first window
  int64_t count = 0;
  const float** keys = nullptr;    ///< [count] each [d], of pairs where q is
  bool masked = false;             ///< some query does not see all these windows
  const float* visible = nullptr;  ///< [columns] windows that the query sees
  float* scores = nullptr;         ///< scratch [count][columns]
  float* largest = nullptr;        ///< [columns] of the coarse scores
  float* sum =
      nullptr;  ///< [columns] of exp(coarse score - largest); its inverse for the fine windows
  float* votes = nullptr;  ///< [count][queries] result of the fine windows
};

}  // namespace sala::cpu
