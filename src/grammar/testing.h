#pragma once

#include <cstdint>
#include <string_view>

#include "grammar/recogniser.h"

namespace sala::testing {

/// Whether a text is of the recogniser's grammar.
inline bool accepts(Recogniser& recogniser, std::string_view text) {
  Recogniser::Place place = recogniser.start();
  for (const char c : text)
    if ((place = recogniser.next(place, static_cast<uint8_t>(c))) == Recogniser::kNowhere)
      return false;
  return recogniser.may_end(place);
}

}  // namespace sala::testing
