#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "model/config.h"

namespace sala::halo {

/// MiniCPM-SALA's proportions at a sixteenth of its window: a query reads 1,024 tokens at most.
inline constexpr const char* kDefaultSparse =
    "kernel=32,stride=16,block=64,init=1,window=512,topk=8,dense_len=0";

/// The option --sparse: the sparse_config of attention layers, as kDefaultSparse, or "none".
void add_sparse(CLI::App& command, std::string& value);

/// Reads such a text. Throws UsageError for what it does not know.
std::optional<SparseConfig> read_sparse(const std::string& text);

}  // namespace sala::halo
