#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/random.h"

namespace sala {

/// Text between the facts of a recall document: about `bytes` of it, whole sentences.
using Filler = std::function<std::string(int64_t bytes, Random& random)>;

/// The same five short sentences over and over.
std::string repeated_sentences(int64_t bytes, Random& random);

/// Sentences of a small grammar: every one sensible, few alike, none with a number in it.
std::string plain_prose(int64_t bytes, Random& random);

/// Passages of a text, from a random sentence on. `text` must outlive the filler and not be empty.
Filler passages_of(const std::string& text);

/// A name of `syllables` syllables that can be spoken and means nothing, such as "kelomu".
std::string invented_name(int syllables, Random& random);

/// `count` characters out of `alphabet`.
std::string random_string(int count, std::string_view alphabet, Random& random);

}  // namespace sala
