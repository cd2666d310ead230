#include "model/decay.h"

#include <bit>
#include <cmath>

namespace sala {

std::vector<double> decay_slopes(int heads) {
  std::vector<double> slopes;
  const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(heads)));
  for (int h = 0; h < power; ++h) slopes.push_back(std::exp2(-8.0 * (h + 1) / power));
  if (power < heads) {
    const std::vector<double> finer = decay_slopes(2 * power);
    for (int h = 0; power + h < heads; ++h) slopes.push_back(finer[static_cast<size_t>(2 * h)]);
  }
  return slopes;
}

}  // namespace sala
