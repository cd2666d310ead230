// sala-halo export: a model directory to ship.
#include "base/error.h"
#include "checkpoint.h"
#include "command.h"
#include "sparse_flag.h"

namespace sala::halo {
namespace {

struct ExportCommand {
  std::string student, out, type = "bf16", sparse;

  void run() const {
    if (type != "bf16" && type != "f32")
      throw UsageError(fmt::format("--dtype is \"{}\"; expected bf16 or f32", type));
    Checkpoint model = read_checkpoint(student, torch::kCPU);
    if (!sparse.empty()) model.config.attention.sparse = read_sparse(sparse);
    write_checkpoint(out, model, type == "bf16" ? torch::kBFloat16 : torch::kFloat);
    copy_tokenizer(student, out);
    fmt::print(stderr, "{}: {:.1f} MB\n", out,
               static_cast<double>(
                   std::filesystem::file_size(std::filesystem::path(out) / "model.safetensors")) /
                   1e6);
  }
};

}  // namespace

void add_export(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("export", "Write a model directory to ship");
  auto save = std::make_shared<ExportCommand>();
  command.add_option("--student", save->student, "model directory of any stage")->required();
  command.add_option("--out", save->out, "model directory to make")->required();
  command.add_option("--dtype", save->type, "type of weights: bf16 or f32")->capture_default_str();
  command.add_option("--sparse", save->sparse,
                     "another InfLLM-V2 for attention layers, as distill takes it; or none");
  command.callback([save] { save->run(); });
}

}  // namespace sala::halo
