#pragma once

#include <string_view>

#include "tensor/shapes.h"

namespace sala {

/// The tokens of a step as the ops see them: T tokens of B sequences laid end to end, the tokens of
/// one sequence at consecutive positions. All are device tensors of i32; nothing per sequence is a
/// host scalar.
struct Sequences {
  In positions;   ///< [T] absolute position of each token
  In starts;      ///< [B + 1] first token of each sequence in the step; starts[B] = T
  In page_table;  ///< [B, P] pool page that holds positions [i * page, (i + 1) * page) of a
                  ///< sequence; unused entries are 0
  In slots;       ///< [B] the sequence's slot in state fields
  In kept{};      ///< [B] positions of a sequence below this are in its pages already, keys and
                  ///< compressed keys: a step that replays them writes nothing there. Empty: 0

  int64_t tokens() const { return positions.dim[0]; }
  int64_t count() const { return slots.dim[0]; }
  int64_t kept_of(int64_t b) const { return kept.empty() ? 0 : kept.as<int32_t>()[b]; }
};

/// Checks the shapes of `sequences` at the entry of `op` and binds T. Ops on pages need a page
/// table.
void check_sequences(std::string_view op, const Sequences& sequences, Dim& T, bool paged);

}  // namespace sala
