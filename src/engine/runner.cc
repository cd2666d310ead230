#include "engine/runner.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/error.h"
#include "cpu/device.h"
#ifdef SALA_CUDA
#include "cuda/device.h"
#endif

namespace sala {
namespace {

StepBounds bounds(const Model& model, const RunOptions& options) {
  const int page = model.config().page();
  return {.tokens = std::max<int64_t>(options.chunk, options.sequences),
          .sequences = options.sequences,
          .pages = (options.context + page - 1) / page,
          .logits = options.logits};
}

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

/// Pages of a layer that must fit in memory at once: what a token reads, and what a step writes
/// with the keys in front of it.
int64_t pages_at_once(const Model& model, const RunOptions& options) {
  const ModelConfig& config = model.config();
  const AttentionConfig& attention = config.attention;
  const int64_t all = (options.context + config.page() - 1) / config.page();
  if (!attention.sparse || options.sparse == SparsePolicy::dense) return all;
  const SparseConfig& sparse = *attention.sparse;
  int64_t read = int64_t{attention.kv_heads} * sparse.total_blocks();
  if (options.sparse != SparsePolicy::always)
    read = std::max<int64_t>(read, sparse.dense_len / config.page() + 1);
  const int64_t before = 4 * sparse.kernel_size / config.page() + 2;
  const int64_t written = options.chunk / config.page() + options.sequences * before;
  return std::min(all, std::max(read, written));
}

/// Tokens that the cache has room for: each sequence may leave its last page part empty.
int64_t cache_tokens(const Model& model, const RunOptions& options) {
  return options.context + int64_t{options.sequences - 1} * model.config().page();
}

/// Bytes of the layers whose keys and values are together at most `most`, the first ones first.
int64_t whole_layers(const Model& model, const RunOptions& options, int64_t most) {
  int64_t sum = 0;
  const auto specs = cache_specs(model.config(), options.kv);
  const int64_t tokens = cache_tokens(model, options);
  for (auto i = static_cast<size_t>(model.host_layers()); i < specs.size(); ++i) {
    const int64_t bytes = memory_of({specs[i]}, model.config().page(), tokens).kv;
    if (sum + bytes <= most) sum += bytes;
  }
  return sum;
}

/// Moves what exceeds --kv-memory to the disk, or to the host. Throws Error when it is too small.
void divide(const Model& model, const Device& device, const RunOptions& options,
            RunMemory& memory) {
  const ModelConfig& config = model.config();
  const int64_t all = memory.cache.kv;
  memory.disk = std::max<int64_t>(options.cache_disk, 0);
  if (options.kv_memory < 0 || options.kv_memory >= all) return;
  if (!device.of_host()) {
    memory.cache.kv = whole_layers(model, options, options.kv_memory);
    memory.on_host += all - memory.cache.kv;
    return;
  }
  const int64_t pages = (options.context + config.page() - 1) / config.page();
  const int64_t least = pages_at_once(model, options) * (all / pages);
  if (options.kv_memory < least)
    fail(
        "--kv-memory is {:.1f} MiB; {}this model needs at least {:.1f} MiB of its keys and values "
        "in memory for a context of {} tokens",
        mib(options.kv_memory), least == all ? "its attention reads every token, so " : "",
        mib(least), options.context);
  if (options.cache_disk >= 0 && options.cache_disk < all)
    fail(
        "a context of {} tokens has {:.1f} MiB of keys and values, --kv-memory is {:.1f} MiB and "
        "--cache-disk is {:.1f} MiB: raise --kv-memory, or --cache-disk to at least {:.1f} MiB",
        options.context, mib(all), mib(options.kv_memory), mib(options.cache_disk), mib(all));
  memory.disk = std::max(memory.disk, all);
  memory.cache.kv = options.kv_memory;
}

RunMemory memory_needed(const Model& model, const Device& device, const RunOptions& options) {
  const ModelConfig& config = model.config();
  const auto specs = cache_specs(config, options.kv);
  const auto of_layers = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    MemoryUse use =
        memory_of({specs.begin() + begin, specs.begin() + end}, config.page(), options.context);
    use.state *= options.sequences;
    return use;
  };
  RunMemory memory;
  memory.cache = of_layers(model.host_layers(), std::ssize(specs));
  memory.snapshots = options.cache_ram;
  memory.workspace = model.workspace(bounds(model, options)) +
                     options.logits * config.vocab * int64_t{sizeof(float)};
  if (model.host_layers() > 0)
    memory.on_host =
        of_layers(0, model.host_layers()).total() + model.workspace(bounds(model, options));
  divide(model, device, options, memory);

  const int64_t snapshots = device.of_host() ? memory.snapshots : 0;  // always the host's
  const int64_t needed = memory.cache.total() + memory.workspace + snapshots;
  const int64_t available = device.available();
  if (available >= 0 && needed > available)
    fail(
        "a context of {} tokens needs {:.1f} MiB (keys and values {:.1f}, index {:.1f}, state "
        "{:.1f}, snapshots {:.1f}, workspace {:.1f}); {:.1f} MiB of {} are available: use a "
        "shorter context, --kv int8, or --kv-memory",
        options.context, mib(needed), mib(memory.cache.kv), mib(memory.cache.index),
        mib(memory.cache.state), mib(snapshots), mib(memory.workspace), mib(available),
        device.of_host() ? "memory" : device.name() + "'s memory");
  if (const int64_t left = Memory().available();
      !device.of_host() && left >= 0 && memory.on_host + memory.snapshots > left)
    fail(
        "layers, keys and values that are not the GPU's take {:.1f} MiB of the host's memory, "
        "snapshots {:.1f} MiB; {:.1f} MiB are available: use a shorter context, --kv int8, or a "
        "smaller --cache-ram",
        mib(memory.on_host), mib(memory.snapshots), mib(left));
  return memory;
}

/// Where each layer's memory of texts lies.
std::vector<Memory*> memories(const Model& model, Device& device) {
  static Memory host;
  std::vector<Memory*> all(static_cast<size_t>(model.config().layers()), &device);
  std::fill_n(all.begin(), model.host_layers(), &host);
  return all;
}

CacheSize cache_size(const Model& model, const RunOptions& options, const RunMemory& memory) {
  const int page = model.config().page();
  const int64_t all = memory_of(cache_specs(model.config(), options.kv), page, options.context).kv;
  const bool spills = memory.on_host == 0 && memory.cache.kv < all;
  return {.page = page,
          .tokens = cache_tokens(model, options),
          .sequences = options.sequences,
          .kv_memory = memory.cache.kv < all ? options.kv_memory : -1,
          .snapshots = options.cache_ram,
          .snapshots_disk = options.cache_ram > 0 ? memory.disk - (spills ? all : 0) : 0,
          .directory = options.cache_dir};
}

}  // namespace

int host_layers(const ModelConfig& config, const RunOptions& options) {
  const bool cpu = options.backend == "cpu" || options.backend == "reference";
  return cpu || options.gpu_layers < 0 ? 0 : std::max(config.layers() - options.gpu_layers, 0);
}

std::unique_ptr<Device> open_device(const RunOptions& options) {
  const std::string& backend = options.backend;
  if (backend == "cpu") return open_cpu(options.threads);
  if (backend == "reference") return open_reference();
#ifdef SALA_CUDA
  constexpr std::string_view kNumbered = "cuda:";
  const std::string number =
      backend.starts_with(kNumbered) ? backend.substr(kNumbered.size()) : "0";
  int gpu = 0;
  const char* end = number.data() + number.size();
  if (const auto [last, error] = std::from_chars(number.data(), end, gpu);
      error != std::errc() || last != end)
    fail("--backend is \"{}\"; expected a GPU's number behind \"cuda:\"", backend);
  return open_cuda(gpu);
#else
  fail("--backend is \"{}\", and this sala is built without it: configure with -DSALA_CUDA=ON",
       backend);
#endif
}

Runner::Runner(const Model& model, Device& device, const RunOptions& options)
    : model_(model),
      device_(device),
      options_(options),
      memory_(memory_needed(model, device, options)),
      cache_(cache_specs(model.config(), options.kv), cache_size(model, options, memory_),
             memories(model, device)),
      arena_(device, model.workspace(bounds(model, options))),
      logits_(device, DType::f32, {options.logits, model.config().vocab}),
      recordings_(device.recordings()) {
  if (model.host_layers() > 0) {
    host_ = open_cpu(options.threads);
    host_arena_.emplace(*host_, model.workspace(bounds(model, options)));
  }
  if (device.of_host()) return;
  host_logits_ = Tensor(DType::f32, {options.logits, model.config().vocab});
  draws_ = Tensor(device, DType::u8, {options.logits, int64_t{sizeof(SampleRow)}});
  draws_tokens_ = Tensor(device, DType::i32, {options.logits});
  told_ = device.allocate_on_host(2 * options.logits * int64_t{sizeof(int32_t)});
}

bool Runner::Launched::all_asked() const {
  return !asked.empty() && std::ranges::find(asked, false) == asked.end();
}

bool Runner::can_go_ahead() const {
  return !device_.of_host() && host_ == nullptr && launched() == 1 && launched_.back().all_asked();
}

void Runner::launch(std::span<Row> rows) {
  SALA_CHECK(launched_.empty() || can_go_ahead(), "a step before the last is finished");
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
    cache_.read_ahead(row.hold);
  }
  const auto wanted = static_cast<int64_t>(batch.wanted.size());
  const Out logits = sala::rows(logits_.view(), 0, wanted);
  Launched step{.asked = std::vector<bool>(batch.wanted.size())};
  write_draws(rows, step);
  run(batch, logits);
  for (Row& row : rows) row.hold.advance(static_cast<int64_t>(row.tokens.size()));
  draw(step, logits);
  step.mark = device_.mark();
  launched_.push_back(std::move(step));
}

void Runner::run(const Batch& batch, Out logits) {
  Step step{.device = device_,
            .arena = arena_,
            .compute = options_.compute,
            .kv = options_.kv,
            .on_blocks = on_blocks,
            .recordings = recordings_.get(),
            .drawn = draws_tokens_.view()};
  arena_.rewind(0);  // a step that failed has left what it took
  if (host_ == nullptr) return model_.forward(step, nullptr, cache_, batch, logits);
  host_arena_->rewind(0);
  Step host{.device = *host_,
            .arena = *host_arena_,
            .compute = options_.compute,
            .kv = options_.kv,
            .on_blocks = on_blocks};
  model_.forward(step, &host, cache_, batch, logits);
}

/// Tells the device how tokens are drawn; where it is the host, whoever wants one has the logits.
void Runner::write_draws(std::span<const Row> rows, Launched& step) {
  if (device_.of_host()) return;
  std::vector<SampleRow> draws(step.asked.size());  // where nobody asks, a greedy one costs little
  size_t next = 0;
  for (const Row& row : rows) {
    next += static_cast<size_t>(row.logits);
    if (row.logits != 1 || !row.draw) continue;
    draws[next - 1] = *row.draw;
    step.asked[next - 1] = true;
  }
  if (std::ranges::find(step.asked, true) != step.asked.end())
    device_.write(reinterpret_cast<std::byte*>(draws_.view().as<uint8_t>()),
                  std::as_bytes(std::span(draws)));
}

/// Has the device draw and tell tokens where somebody has asked for one.
void Runner::draw(Launched& step, In logits) {
  if (std::ranges::find(step.asked, true) == step.asked.end()) return;
  const int64_t count = logits.dim[0];
  const Out tokens = sala::rows(draws_tokens_.view(), 0, count);
  sample(device_, logits, sala::rows(draws_.view(), 0, count), tokens);
  step.told = reinterpret_cast<int32_t*>(told_.get()) + turn_++ % 2 * options_.logits;
  device_.copy(reinterpret_cast<std::byte*>(step.told),
               reinterpret_cast<const std::byte*>(tokens.as<int32_t>()),
               count * int64_t{sizeof(int32_t)});
}

In Runner::finish() {
  SALA_CHECK(!launched_.empty(), "no step is launched");
  const Launched step = std::move(launched_.front());
  launched_.pop_front();
  const auto wanted = std::ssize(step.asked);
  const Out logits = sala::rows(logits_.view(), 0, wanted);
  drawn_.assign(step.asked.size(), kNoToken);
  if (device_.of_host()) return logits;
  device_.wait_for(step.mark);
  for (size_t i = 0; i < drawn_.size(); ++i)
    if (step.asked[i]) drawn_[i] = step.told[i];
  const Out here = sala::rows(host_logits_.view(), 0, wanted);
  if (launched_.empty()) {
    read_logits(logits);
  } else {  // which has overwritten logits from which nothing could be drawn, whatever they held
    for (int64_t i = 0; i < wanted; ++i)
      if (drawn_[static_cast<size_t>(i)] == kNoToken)
        std::fill_n(here.row<float>(i), here.dim[1], std::numeric_limits<float>::quiet_NaN());
  }
  return here;
}

/// Brings the rows whose token was not drawn to the host.
void Runner::read_logits(In logits) {
  const Out to = host_logits_.view();
  const auto is_read = [&](size_t i) { return drawn_[i] == kNoToken; };
  for (size_t begin = 0, end = 0; begin < drawn_.size(); begin = end) {
    end = begin + 1;
    while (end < drawn_.size() && is_read(end) == is_read(begin)) ++end;
    if (!is_read(begin)) continue;
    const auto row = static_cast<int64_t>(begin);
    const size_t floats = (end - begin) * static_cast<size_t>(logits.dim[1]);
    device_.read(std::as_writable_bytes(std::span(to.row<float>(row), floats)),
                 reinterpret_cast<const std::byte*>(logits.row<float>(row)));
  }
}

bool Runner::read(Hold& hold, std::span<const int> text, const Reading& how) {
  const auto total = static_cast<int64_t>(text.size());
  const int64_t begin = hold.length();
  auto mark = how.marks.begin();
  while (hold.length() < total) {
    const int64_t done = hold.length();
    while (mark != how.marks.end() && *mark <= done) ++mark;
    int64_t count = std::min<int64_t>(options_.chunk, total - done);
    if (mark != how.marks.end()) count = std::min(count, *mark - done);
    const int64_t logits = std::clamp<int64_t>(done + count - (total - how.wanted), 0, count);
    Row row{.hold = hold,
            .tokens = text.subspan(static_cast<size_t>(done), static_cast<size_t>(count)),
            .logits = logits,
            .prompt = total};
    const In result = step({&row, 1});
    if (logits > 0 && how.on_logits) how.on_logits(result);
    const int64_t now = hold.length();
    if (now / kSnapshotEvery > done / kSnapshotEvery || (mark != how.marks.end() && *mark == now))
      cache_.snapshot(hold);
    if (how.on_progress && !how.on_progress(now - begin)) return now == total;
  }
  return true;
}

}  // namespace sala
