#pragma once

#include <CLI/CLI.hpp>

#include "trainer.h"

namespace sala::halo {

/// The options of every command that trains. What differs between stages (the learning rate, the
/// number of steps) has the stage's default.
struct TrainFlags {
  TrainOptions train{};
  DataOptions data{};
  std::string tasks;  ///< "name=share,..."; empty: the usual
  int threads = 0;

  /// Adds them; `train` and `data` hold the defaults.
  void add_to(CLI::App& command);
  /// Adds only those that say on what and how it is computed.
  void add_machine(CLI::App& command);
  /// Reads --tasks and applies threads and device; throws UsageError for a value that is not known.
  void prepare();
};

/// The commands: each adds itself to the program.
void add_pack(CLI::App& app);
void add_pretrain(CLI::App& app);
void add_init(CLI::App& app);
void add_align(CLI::App& app);
void add_select(CLI::App& app);
void add_distill(CLI::App& app);
void add_extend(CLI::App& app);
void add_export(CLI::App& app);

}  // namespace sala::halo
