#pragma once

#include <CLI/CLI.hpp>

namespace sala {

/// The commands `eval niah` and `eval recall`.
void add_eval_recall(CLI::App& eval);

}  // namespace sala
