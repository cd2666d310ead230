#pragma once

#include <vector>

namespace sala {

/// Log-decays of Lightning attention's heads, positive: the ALiBi slopes (Press et al. 2022), the
/// same in every layer. A power of two of heads has 2^(-8 (h + 1) / heads); other numbers take the
/// rest from the slopes of twice as many heads.
std::vector<double> decay_slopes(int heads);

}  // namespace sala
