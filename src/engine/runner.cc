#include "engine/runner.h"

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "cpu/device.h"

namespace sala {
namespace {

/// Bytes that the system can still give (MemAvailable), or -1 when it does not say.
int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (int64_t kib = 0; file >> key >> kib >> unit;)
    if (key == "MemAvailable:") return kib * 1024;
  return -1;
}

StepBounds bounds(const Model& model, const RunOptions& options) {
  const int page = model.config().page();
  return {.tokens = std::max<int64_t>(options.chunk, options.sequences),
          .sequences = options.sequences,
          .pages = (options.context + page - 1) / page,
          .logits = options.logits};
}

RunMemory memory_needed(const Model& model, const RunOptions& options) {
  const ModelConfig& config = model.config();
  const auto specs = cache_specs(config, options.kv);
  RunMemory memory;
  memory.cache = memory_of(specs, config.page(), options.context);
  memory.cache.state *= options.sequences;
  memory.workspace = model.workspace(bounds(model, options)) +
                     options.logits * config.vocab * int64_t{sizeof(float)};

  const int64_t needed = memory.cache.total() + memory.workspace;
  const int64_t available = available_memory();
  const auto mib = [](int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); };
  if (available >= 0 && needed > available)
    fail(
        "a context of {} tokens needs {:.1f} MiB (keys and values {:.1f}, index {:.1f}, state "
        "{:.1f}, workspace {:.1f}); {:.1f} MiB of memory are available: use a shorter context or "
        "--kv bf16",
        options.context, mib(needed), mib(memory.cache.kv), mib(memory.cache.index),
        mib(memory.cache.state), mib(memory.workspace), mib(available));
  return memory;
}

}  // namespace

std::unique_ptr<Device> open_device(const RunOptions& options) {
  if (options.backend == "cpu") return open_cpu(options.threads);
  if (options.backend == "reference") return open_reference();
  fail("--backend is \"{}\"; expected cpu or reference", options.backend);
}

Runner::Runner(const Model& model, Device& device, const RunOptions& options)
    : model_(model),
      device_(device),
      options_(options),
      memory_(memory_needed(model, options)),
      cache_(cache_specs(model.config(), options.kv), model.config().page(),
             // Each sequence may leave its last page part empty.
             options.context + int64_t{options.sequences - 1} * model.config().page(),
             options.sequences),
      arena_(model.workspace(bounds(model, options))),
      logits_(DType::f32, {options.logits, model.config().vocab}) {}

In Runner::step(std::span<Row> rows) {
  const auto& sparse = model_.config().attention.sparse;
  const int dense_len = sparse ? sparse->dense_len : 0;
  Batch batch;
  for (Row& row : rows) {
    SALA_CHECK(row.hold.grow(static_cast<int64_t>(row.tokens.size())),
               "{} tokens do not fit the cache of {}", row.tokens.size(), options_.context);
    batch.add(
        row.hold, row.tokens,
        [&](int64_t position) {
          return attends_sparsely(options_.sparse, dense_len, position, row.prompt);
        },
        row.logits);
  }
  const auto wanted = static_cast<int64_t>(batch.wanted.size());
  const Out logits = sala::rows(logits_.view(), 0, wanted);
  Step step{
      .device = device_, .arena = arena_, .compute = options_.compute, .on_blocks = on_blocks};
  model_.forward(step, cache_, batch, logits);
  for (Row& row : rows) row.hold.advance(static_cast<int64_t>(row.tokens.size()));
  return logits;
}

void Runner::prefill(Hold& hold, std::span<const int> tokens, int64_t wanted,
                     const std::function<void(In logits)>& on_logits,
                     const std::function<void(int64_t done)>& on_progress) {
  const auto total = static_cast<int64_t>(tokens.size());
  for (int64_t done = 0; done < total;) {
    const int64_t count = std::min<int64_t>(options_.chunk, total - done);
    const int64_t logits = std::clamp<int64_t>(done + count - (total - wanted), 0, count);
    Row row{.hold = hold,
            .tokens = tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)),
            .logits = logits,
            .prompt = total};
    const In result = step({&row, 1});
    if (logits > 0 && on_logits) on_logits(result);
    done += count;
    if (on_progress) on_progress(done);
  }
}

}  // namespace sala
