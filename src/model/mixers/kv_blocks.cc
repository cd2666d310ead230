#include "model/mixers/kv_blocks.h"

#include <algorithm>
#include <vector>

namespace sala {
namespace {

/// The pages that a run of tokens reads.
class PageSet {
 public:
  void clear() {
    for (const int32_t page : pages_) seen_[static_cast<size_t>(page)] = false;
    pages_.clear();
  }
  void add(int32_t page) {
    const auto at = static_cast<size_t>(page);
    if (seen_.size() <= at) seen_.resize(at + 1, false);
    if (seen_[at]) return;
    seen_[at] = true;
    pages_.push_back(page);
  }
  /// Takes back all but the first `count`.
  void cut(size_t count) {
    for (size_t i = count; i < pages_.size(); ++i) seen_[static_cast<size_t>(pages_[i])] = false;
    pages_.resize(count);
  }
  const std::vector<int32_t>& pages() const { return pages_; }

 private:
  std::vector<bool> seen_;
  std::vector<int32_t> pages_;
};

/// Adds the pages of token t, which belongs to sequence b.
void add_pages(const Sequences& sequences, int page, In lists, In counts, int64_t b, int64_t t,
               PageSet& set) {
  const int32_t* table = sequences.page_table.row<int32_t>(b);
  const int64_t heads = lists.empty() ? 1 : lists.dim[1];
  for (int64_t g = 0; g < heads; ++g) {
    const int32_t count = lists.empty() ? -1 : counts.row<int32_t>(t)[g];
    if (count < 0) {
      const int32_t last = sequences.positions.as<int32_t>()[t] / page;
      for (int32_t block = 0; block <= last; ++block) set.add(table[block]);
    } else {
      const int32_t* list = lists.as<int32_t>() + t * lists.stride[0] + g * lists.stride[1];
      for (int32_t i = 0; i < count; ++i) set.add(table[list[i]]);
    }
  }
}

/// Tokens [first, first + count) of a step, with the sequences that have some of them.
Sequences part(Step& step, int64_t first, int64_t count) {
  const Sequences& all = step.sequences;
  const int32_t* starts = all.starts.as<int32_t>();
  const int64_t end = first + count;
  int64_t b = 0, last = all.count();
  while (starts[b + 1] <= first) ++b;
  while (starts[last - 1] >= end) --last;
  const Out own = step.arena.take(DType::i32, {last - b + 1});
  for (int64_t i = b; i <= last; ++i)
    own.as<int32_t>()[i - b] =
        static_cast<int32_t>(std::clamp<int64_t>(starts[i], first, end) - first);
  Sequences some = all;
  some.positions = rows(all.positions, first, count);
  some.starts = own;
  some.page_table = rows(all.page_table, b, last - b);
  some.slots = rows(all.slots, b, last - b);
  some.kept = rows(all.kept, b, last - b);
  return some;
}

}  // namespace

void use_written_pages(const Sequences& sequences, int page, int64_t before,
                       const LayerMemory& memory) {
  PageSet written;
  const int32_t* starts = sequences.starts.as<int32_t>();
  for (int64_t b = 0; b < sequences.count(); ++b) {
    if (starts[b] == starts[b + 1]) continue;
    const int64_t first =
        std::max<int64_t>(sequences.positions.as<int32_t>()[starts[b]], sequences.kept_of(b));
    const int64_t last = sequences.positions.as<int32_t>()[starts[b + 1] - 1];
    if (first > last) continue;
    const int32_t* table = sequences.page_table.row<int32_t>(b);
    for (int64_t i = std::max<int64_t>(first - before, 0) / page; i <= last / page; ++i)
      written.add(table[i]);
  }
  memory.use(written.pages(), Frames::Access::write);
}

void attention_over_blocks(Step& step, In q, const KvPages& pages, In lists, In counts, float scale,
                           In gate, Out o, const LayerMemory& memory) {
  const Sequences& sequences = step.sequences;
  const int32_t* starts = sequences.starts.as<int32_t>();
  const int64_t tokens = sequences.tokens();
  PageSet set;
  for (int64_t first = 0, b = 0; first < tokens;) {
    set.clear();
    int64_t end = first;
    for (; end < tokens; ++end) {
      while (starts[b + 1] <= end) ++b;
      const size_t before = set.pages().size();
      add_pages(sequences, pages.page, lists, counts, b, end, set);
      if (static_cast<int64_t>(set.pages().size()) > memory.capacity()) {
        set.cut(before);
        break;
      }
      if (end + 1 == starts[b + 1]) memory.recent(sequences.slots.as<int32_t>()[b]) = set.pages();
    }
    SALA_CHECK(end > first, "a token reads more than the {} pages that memory has room for",
               memory.capacity());
    memory.use(set.pages(), Frames::Access::read);
    const int64_t mark = step.arena.used();
    const int64_t count = end - first;
    attention(step.device, part(step, first, count), rows(q, first, count), pages,
              lists.empty() ? In{} : rows(lists, first, count),
              counts.empty() ? In{} : rows(counts, first, count), scale, step.attention_compute(),
              gate.empty() ? In{} : rows(gate, first, count), rows(o, first, count));
    step.arena.rewind(mark);
    first = end;
  }
}

}  // namespace sala
