#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/open.h"
#include "engine/runner.h"
#include "session/stored_session.h"

namespace sala {

/// What a session's memory depends on in a run.
struct SessionFacts {
  Facts identity;        ///< a session with others is refused
  Facts numerics;        ///< a session with others is not exact
  SessionLayout layout;  ///< follows from the identity
};

/// The facts of a run of `model`, which was made of `files`. Throws Error for the policy `hf` where
/// the model has layers that it concerns: under it a text does not mean the same in every run.
SessionFacts session_facts(const ModelFiles& files, const Model& model, const Device& device,
                           const RunOptions& options);

/// A text on the disk with its memory, to be gone on with by runners of one model. docs/sessions.md
/// says what is promised.
class Session {
 public:
  using Access = StoredSession::Access;

  /// Makes a session, which exists once it is saved.
  static Session create(const std::filesystem::path& dir, const std::string& model,
                        const SessionFacts& here);
  /// Opens one. Throws Error when it is damaged, when its identity is not that of this run, or, if
  /// `inexact` is false, when its numerics are not.
  static Session open(const std::filesystem::path& dir, Access access, const SessionFacts& here,
                      bool inexact);

  std::span<const int32_t> tokens() const { return stored_->tokens(); }
  const Manifest& manifest() const { return stored_->manifest(); }
  /// How the session's numerics differ from this run's, in words; empty when it is exact.
  const std::vector<std::string>& differences() const { return differences_; }

  /// The memory of the text's first `tokens` tokens as a sequence of `runner`, which has room for
  /// it. Reads their index and the last states before their end; keys and values are read, and
  /// checked, when a step asks for them. Throws Error when sequences that run hold its room.
  Hold restore(Runner& runner, int64_t tokens) const;
  /// Makes the session the text `text` and commits: what it shares with the text so far stays, the
  /// rest is taken from `hold`, which has read all of it. `turn`: a message of a chat begins at
  /// this token, or where the new part does if that is behind it.
  void save(Runner& runner, Hold& hold, std::span<const int> text,
            std::optional<int64_t> turn = {});
  /// Makes the session its first `tokens` tokens and commits.
  void roll_back(int64_t tokens);

 private:
  Session(StoredSession stored, const SessionFacts& here)
      : stored_(std::make_shared<StoredSession>(std::move(stored))), here_(here) {}
  void save_pages(Cache& cache, const Hold& hold, int64_t from);
  void save_snapshots(Cache& cache, Hold& hold);

  std::shared_ptr<StoredSession> stored_;  ///< caches read keys and values from it
  SessionFacts here_;
  std::vector<std::string> differences_;
};

/// Has `options` hold the snapshots from which a sequence is taken up after its end was cut off.
/// `snapshots`: how many.
void make_room_for_snapshots(const ModelConfig& config, RunOptions& options, int snapshots = 4);

}  // namespace sala
