#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace sala {

/// Cuts a normalised text into the words in which byte-pair encoding works, as "pre_tokenizer" of
/// tokenizer.json describes it. Immutable: thread-safe.
class PreTokenizer {
 public:
  /// Takes one piece; `at_start` says that it begins the whole text.
  using Sink = std::function<void(std::string_view piece, bool at_start)>;
  using Step = std::function<void(std::string_view piece, bool at_start, const Sink& sink)>;

  PreTokenizer() = default;

  /// Reads "pre_tokenizer" (null gives one that cuts nothing). `raw_bytes` says that the model
  /// takes raw bytes: a closing ByteLevel step then leaves out its spelling in letters. Throws
  /// Error for a kind that is not supported.
  static PreTokenizer from_json(const Json& json, const std::string& where, bool raw_bytes);

  /// Cuts by GPT-style expressions, one after the other, each keeping its matches and what lies
  /// between.
  static PreTokenizer from_patterns(const std::vector<std::string>& patterns,
                                    const std::string& where);

  /// True when the last step of `json` is ByteLevel, so that the model may work on raw bytes.
  static bool ends_in_bytes(const Json& json);

  void add(Step step) { steps_.push_back(std::move(step)); }

  /// Gives the non-empty pieces of `text` from left to right.
  void apply(std::string_view text, bool at_start, const Sink& sink) const {
    run(0, text, at_start, sink);
  }

 private:
  void add_json(const Json& json, const std::string& where, bool raw_bytes);
  void run(size_t step, std::string_view piece, bool at_start, const Sink& sink) const;
  std::vector<Step> steps_;
};

}  // namespace sala
