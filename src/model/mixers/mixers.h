#pragma once

#include "model/mixer.h"

namespace sala {

extern const MixerType kAttention;
extern const MixerType kLightning;

}  // namespace sala
