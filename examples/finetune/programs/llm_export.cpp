#include <string>
#include <string_view>

#include <fmt/format.h>

#include "programs/llm_commands.hpp"
#include "programs/llm_model.hpp"
#include "training/run_adapter.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

void export_merged(const TrainOptions& options) {
  CausalSession<float, HostBackend> session(options, true);
  session.load_model(options, nothing_trained());
  session.source().save(options.output, session.model(), file_type(options.save_dtype));
  print("{}written: {}, {}\n", session.model_text(), options.output.string(), to_string(options.save_dtype));
}

void export_adapter(const ExportCommand& command) {
  const TrainOptions& options = command.common;
  const bool peft = command.format == "peft";
  std::error_code code;
  if (!peft && (fs::is_directory(options.output, code) || !options.output.has_filename())) {
    throw ValueError(
        options.output.string() +
        ": is a folder, expected as --output of gguf-lora the file to write, such as adapter.gguf");
  }
  if (peft && fs::exists(options.output, code) && !fs::is_directory(options.output, code)) {
    throw ValueError(options.output.string() +
                     ": is a file, expected as --output of peft the folder to write");
  }
  const RunAdapter run = run_adapter(options.model, command.base);
  if (fs::equivalent(options.output, run.base, code))
    throw ValueError(options.output.string() + ": --output is the base model, expected another path");
  const io::DType type = file_type(options.save_dtype);
  if (peft)
    write_peft_adapter(options.output, run.adapter, run.base.string(), type);
  else
    write_gguf_adapter(options.output, run.adapter, run.config, type);
  print("adapter: rank {} beside {} matrices of {}; rounding beside it {:.1e} of a matrix's norm\n",
        run.adapter.rank, run.adapter.matrices.size(), run.base.string(), run.rounding);
  print("written: {}, {}\n", options.output.string(), to_string(options.save_dtype));
}

}  // namespace

int run_export(const ExportCommand& command) {
  const std::string_view format = command.format;
  if (format != "merged" && format != "peft" && format != "gguf-lora") {
    throw ValueError(fmt::format("--format is '{}', expected merged, peft or gguf-lora", format));
  }
  if (format == "merged" && !command.base.empty())
    throw ValueError("--base-model is for adapters, --format peft or gguf-lora; merged weights need no base");
  std::error_code code;
  if (fs::equivalent(command.common.output, command.common.model, code))
    throw ValueError("--output is the model's own folder, expected another one");
  if (format == "merged")
    export_merged(command.common);
  else
    export_adapter(command);
  return 0;
}

}  // namespace sparsegrad::finetune
