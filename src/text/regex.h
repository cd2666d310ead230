#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace sala {

/// A regular expression as tokenizer files write them (Oniguruma's Ruby syntax, Unicode classes),
/// compiled to machine code by PCRE2. Immutable: any thread may match at any time. Matching is
/// bounded: an expression that backtracks without end throws Error.
class Regex {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
  };

  /// `where` names file and field, for messages. Throws Error when the pattern is not understood.
  Regex(std::string_view pattern, std::string where);

  /// The first match at or after byte `from` of `text`, which must be valid UTF-8.
  std::optional<Match> find(std::string_view text, size_t from) const;

  /// Calls `found(Match)` for each match from left to right. An empty match is given only where the
  /// match before it did not end.
  template <class Found>
  void each(std::string_view text, Found&& found) const {
    size_t from = 0;
    std::optional<size_t> last_end;
    while (from <= text.size()) {
      const auto match = find(text, from);
      if (!match) return;
      if (match->begin == match->end) {
        from = after(text, match->end);
        if (last_end == match->end) continue;
      } else {
        from = match->end;
      }
      last_end = match->end;
      found(*match);
    }
  }

 private:
  struct Free {
    void operator()(void* code) const;
  };
  static size_t after(std::string_view text, size_t at);

  std::unique_ptr<void, Free> code_;
  bool jit_ = false;
  std::string where_;
};

/// Rewrites a pattern from Oniguruma's Ruby syntax to PCRE2's. Throws Error naming `where` for what
/// has no equivalent.
std::string translate_onig(std::string_view pattern, const std::string& where);

}  // namespace sala
