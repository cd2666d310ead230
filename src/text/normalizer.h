#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace sala {

/// What a tokenizer does to a text before it looks for words: a chain of rewritings, as
/// "normalizer" of tokenizer.json describes it. Immutable: thread-safe.
class Normalizer {
 public:
  using Step = std::function<std::string(std::string_view)>;

  Normalizer() = default;

  /// Reads "normalizer" (null gives one that does nothing). `where` names file and field. Throws
  /// Error for a kind that is not supported.
  static Normalizer from_json(const Json& json, const std::string& where);

  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }

  /// The rewritten text.
  std::string apply(std::string_view text) const;

 private:
  void add_json(const Json& json, const std::string& where);
  std::vector<Step> steps_;
};

/// A rewriting that puts `content` for each occurrence of `pattern`, which is tokenizer.json's
/// {"String": "..."} or
/// {"Regex": "..."}.
Normalizer::Step replace_step(const Json& pattern, const std::string& content,
                              const std::string& where);

}  // namespace sala
