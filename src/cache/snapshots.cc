#include "cache/snapshots.h"

#include <algorithm>

#include "base/error.h"

namespace sala {

Snapshots::Snapshots(int64_t bytes, int64_t memory, int64_t disk,
                     const std::filesystem::path& directory)
    : bytes_(bytes),
      memory_slots_(bytes == 0 ? 0 : static_cast<size_t>(memory / bytes)),
      disk_slots_(bytes == 0 ? 0 : static_cast<size_t>(disk / bytes)) {
  if (disk_slots_ > 0) file_.emplace(directory, static_cast<int64_t>(disk_slots_) * bytes);
  for (auto i = static_cast<int64_t>(disk_slots_); i-- > 0;) free_slots_.push_back(i);
}

Snapshot::~Snapshot() {
  if (!alive()) return;
  std::erase(pool_->all_, this);
  if (!bytes_.empty()) --pool_->resident_;
  if (slot_ >= 0) pool_->free_slots_.push_back(slot_);
}

double Snapshots::worth(const Snapshot& snapshot) const {
  const Snapshot* previous = snapshot.previous_.get();
  while (previous != nullptr && !previous->alive()) previous = previous->previous_.get();
  const int64_t tokens = snapshot.position_ - (previous == nullptr ? 0 : previous->position_);
  return static_cast<double>(tokens) / static_cast<double>(1 + clock_ - snapshot.used_);
}

Snapshot* Snapshots::least_worth(bool in_memory) const {
  Snapshot* least = nullptr;
  double worth_of_least = 0.0;
  for (Snapshot* candidate : all_) {
    if (candidate->bytes_.empty() == in_memory) continue;
    const double w = worth(*candidate);
    if (least == nullptr || w < worth_of_least) {
      least = candidate;
      worth_of_least = w;
    }
  }
  return least;
}

void Snapshots::make_room() {
  Snapshot* leaving = least_worth(true);
  if (disk_slots_ > 0) {
    if (free_slots_.empty()) {
      Snapshot* gone = least_worth(false);
      if (worth(*leaving) < worth(*gone)) gone = leaving;
      if (gone->slot_ >= 0) free_slots_.push_back(std::exchange(gone->slot_, -1));
      std::erase(all_, gone);
    }
    if (!free_slots_.empty()) {
      try {
        file_->write(free_slots_.back() * bytes_, leaving->bytes_);
        leaving->slot_ = free_slots_.back();
        free_slots_.pop_back();
      } catch (
          const Error&) {  // without it a text is read again: no reason to end anybody's answer
        std::erase(all_, leaving);
      }
    }
  } else {
    std::erase(all_, leaving);
  }
  leaving->bytes_ = {};
  --resident_;
}

SnapshotRef Snapshots::make(int64_t position, SnapshotRef previous,
                            const std::function<void(std::span<std::byte>)>& fill) {
  if (memory_slots_ == 0) return nullptr;
  if (resident_ == memory_slots_) make_room();
  auto snapshot = std::make_shared<Snapshot>(*this, position, std::move(previous));
  snapshot->bytes_.resize(static_cast<size_t>(bytes_));
  fill(snapshot->bytes_);
  snapshot->used_ = ++clock_;
  all_.push_back(snapshot.get());
  ++resident_;
  return snapshot;
}

void Snapshots::read(Snapshot& snapshot, std::span<std::byte> out) {
  SALA_CHECK(snapshot.alive(), "the snapshot at {} is gone", snapshot.position_);
  if (snapshot.bytes_.empty())
    file_->read(snapshot.slot_ * bytes_, out);
  else
    std::ranges::copy(snapshot.bytes_, out.begin());
  snapshot.used_ = ++clock_;
}

}  // namespace sala
