#pragma once

#include <algorithm>
#include <utility>
#include <vector>

namespace sala::jinja {

/// Sorts by merging runs: equal elements keep their order, and a comparison that contradicts itself
/// (NaN) or throws does no harm, which std::sort does not promise.
template <class T, class Less>
void merge_sort(std::vector<T>& items, Less less) {
  std::vector<T> merged;
  for (size_t run = 1; run < items.size(); run *= 2) {
    merged.clear();
    merged.reserve(items.size());
    for (size_t begin = 0; begin < items.size(); begin += 2 * run) {
      size_t left = begin;
      size_t right = std::min(begin + run, items.size());
      const size_t middle = right;
      const size_t end = std::min(begin + 2 * run, items.size());
      while (left < middle || right < end) {
        const bool take_right = left == middle || (right < end && less(items[right], items[left]));
        merged.push_back(std::move(items[take_right ? right++ : left++]));
      }
    }
    items.swap(merged);
  }
}

}  // namespace sala::jinja
