// Schemas, regular expressions and grammars: any bytes give an Error or a grammar, in bounded time
// and memory; and where a text has come to in it does not depend on what is remembered. The first
// byte says what the text is, the second how much of it is a walk through the grammar of the rest.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "grammar/pattern.h"
#include "grammar/recogniser.h"
#include "text/chat_template.h"

namespace {

sala::Language language(int kind, std::string_view text, sala::Rules& rules) {
  if (kind == 0) return sala::json_language(sala::parse_ordered_json(text, "fuzz"), rules);
  if (kind == 1) return sala::parse_gbnf(text, rules);
  return sala::parse_pattern(text, kind == 2);
}

/// The bytes say which way to go where there are several; where a way ends it begins anew.
void walk(const std::shared_ptr<const sala::Grammar>& grammar, std::string_view steps) {
  using sala::Recogniser;
  Recogniser remembers(grammar), forgets(grammar);
  Recogniser::Place place = remembers.start(), other = forgets.start();
  for (const char step : steps) {
    auto byte = static_cast<uint8_t>(step);
    // The byte itself or the next one that is allowed: there are no dead ends.
    int tries = 0;
    for (; tries < 256 && remembers.next(place, byte) == Recogniser::kNowhere; ++tries) {
      if (forgets.next(other, byte) != Recogniser::kNowhere) std::abort();
      ++byte;
    }
    const bool goes_on = tries < 256;
    if (goes_on != remembers.goes_on(place) || (!goes_on && !remembers.may_end(place)))
      std::abort();
    if (!goes_on) {
      place = remembers.start();
      other = forgets.start();
      continue;
    }
    place = remembers.next(place, byte);
    other = forgets.next(other, byte);
    if (other == Recogniser::kNowhere) std::abort();
    if (step % 2 == 0) other = forgets.forget_all_but(other);
    if (remembers.may_end(place) != forgets.may_end(other) ||
        remembers.goes_on(place) != forgets.goes_on(other))
      std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const size_t steps = std::min<size_t>(data[1], text.size());
  try {
    sala::Rules rules;
    const sala::Language all = language(data[0] % 4, text.substr(0, text.size() - steps), rules);
    walk(std::make_shared<const sala::Grammar>(all, rules), text.substr(text.size() - steps));
  } catch (const sala::Error&) {
  }
  return 0;
}
