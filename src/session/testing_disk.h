#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace sala::testing {

/// A change of the file system.
struct Change {
  enum class Kind : uint8_t { write, truncate, sync, rename, unlink, link } kind;
  std::string path, to;
  off_t offset = 0;  ///< or the size
  std::string bytes;
};

/// A disk in memory: what a file system would hold after some changes, and what of it after a power
/// cut.
class Disk {
 public:
  /// A disk with one directory, `root`.
  explicit Disk(std::string root) : root_(std::move(root)) {}

  void apply(const Change& change) {
    switch (change.kind) {
      case Change::Kind::write:
      case Change::Kind::truncate:
        at(change.path).pending.push_back(change);
        break;
      case Change::Kind::sync:
        if (change.path == root_) {
          settled_ = names_;
          waiting_.clear();
        } else {
          File& file = at(change.path);
          for (const Change& c : file.pending) apply_to(file.safe, c);
          file.pending.clear();
        }
        break;
      case Change::Kind::rename:
        names_[change.to] = names_.at(change.path);
        names_.erase(change.path);
        waiting_.push_back(names_);
        break;
      case Change::Kind::unlink:
        names_.erase(change.path);
        waiting_.push_back(names_);
        break;
      case Change::Kind::link:
        ADD_FAILURE() << "not used here";
    }
  }

  /// The files of a process that died: all that was written.
  std::map<std::string, std::string> after_death() const {
    std::map<std::string, std::string> files;
    for (const auto& [path, file] : names_) {
      std::string bytes = files_.at(file).safe;
      for (const Change& c : files_.at(file).pending) apply_to(bytes, c);
      files[path] = bytes;
    }
    return files;
  }

  /// The files after a power cut: names as they were at some moment since the directory was synced,
  /// of every file what was synced and any of its other writes.
  std::map<std::string, std::string> after_power_cut(std::mt19937& random) const {
    std::map<std::string, std::string> files;
    const size_t moment = random() % (waiting_.size() + 1);
    for (const auto& [path, file] : moment == 0 ? settled_ : waiting_[moment - 1]) {
      std::string bytes = files_.at(file).safe;
      for (const Change& c : files_.at(file).pending)
        if (random() % 2 == 0) apply_to(bytes, c);
      files[path] = bytes;
    }
    return files;
  }

 private:
  struct File {
    std::string safe;
    std::vector<Change> pending;
  };
  using Names = std::map<std::string, size_t>;  ///< places in files_

  File& at(const std::string& path) {
    const auto [name, is_new] = names_.emplace(path, files_.size());
    if (is_new) {
      files_.emplace_back();
      waiting_.push_back(names_);
    }
    return files_[name->second];
  }
  static void apply_to(std::string& bytes, const Change& c) {
    const auto offset = static_cast<size_t>(c.offset);
    if (c.kind == Change::Kind::truncate) {
      bytes.resize(offset);
    } else {
      bytes.resize(std::max(bytes.size(), offset + c.bytes.size()));
      bytes.replace(offset, c.bytes.size(), c.bytes);
    }
  }

  std::string root_;
  std::vector<File> files_;
  Names names_, settled_;
  std::vector<Names> waiting_;  ///< after each change of a name that was not synced yet
};

}  // namespace sala::testing
