#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "engine/open.h"
#include "grammar/constraints.h"

namespace sala {

/// The options that say what a reply may be.
struct ConstraintFlags {
  std::string json_schema, json_schema_file, grammar_file;

  void add_to(CLI::App& command);
  /// What the user set, for a reply with such a thought in front. The files must outlive it. Throws
  /// Error that names the option.
  std::optional<Constraint> over(const ModelFiles& files, Thought thought) const;
};

}  // namespace sala
