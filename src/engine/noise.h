#pragma once

#include <cstdint>

#include "engine/runner.h"

namespace sala {

/// A sequence of `tokens` tokens, whole pages, that nobody has read: its keys, values, compressed
/// keys and states are random numbers, all of them in memory. It costs the time of filling memory.
/// The runner has room for a snapshot (make_room_for_snapshots).
Hold noise(Runner& runner, int64_t tokens);

}  // namespace sala
