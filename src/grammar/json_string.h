#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "grammar/language.h"

namespace sala {

/// "..." around the inside of a JSON string.
Language quoted(Language inside);
/// Any JSON string, with every way to write a character.
Language any_json_string();
/// What a schema says of texts: minLength, maxLength, pattern, format.
class TextLimits {
 public:
  /// Throws Error at `path` where they are none that can be kept.
  TextLimits(const OrderedJson& schema, const std::string& path);
  bool none() const { return !least_ && !most_ && patterns_.empty(); }
  bool allow(const std::string& text) const;
  /// The JSON strings of such texts, characters written as they are or by their one usual escape;
  /// each in any way where there is no limit or only one of length.
  Language language() const;
  /// The same, each text in one way.
  Language plain_language() const;

 private:
  Language limited(Language character) const;

  std::optional<int> least_, most_;
  std::vector<Language> patterns_;             ///< of the inside of a JSON string
  mutable std::vector<Automaton> automata_{};  ///< the same, made when texts are asked for
};

/// A count that a schema has, from 0 to 10,000.
std::optional<int> count_of(const OrderedJson& schema, const char* key, const std::string& path);

}  // namespace sala
