#include <map>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "programs/llm_commands.hpp"
#include "programs/llm_model.hpp"
#include "programs/option_groups.hpp"
#include "training/finished_run.hpp"
#include "training/gguf_export.hpp"
#include "training/run_adapter.hpp"
#include "training/run_delta.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

/// The type that --save-dtype names. Throws ValueError.
io::DType file_type_of(const ExportCommand& command) {
  const std::map<std::string, NumberType> types = number_types();
  const auto found = types.find(command.save_dtype);
  if (found != types.end()) return file_type(found->second);
  throw ValueError(fmt::format("--save-dtype is '{}', expected bf16, float or fp16{}", command.save_dtype,
                               command.save_dtype == "q8_0" ? "; --format gguf has q8_0" : ""));
}

const GgufType& gguf_type_of(const std::string& save_dtype) {
  const std::map<std::string, std::string> names{
      {"float", "F32"}, {"bf16", "BF16"}, {"fp16", "F16"}, {"q8_0", "Q8_0"}};
  const auto found = names.find(save_dtype);
  if (found != names.end()) return gguf_type(found->second);
  throw ValueError(
      fmt::format("--save-dtype is '{}', expected bf16, float, fp16 or q8_0 of --format gguf", save_dtype));
}

/// Before the work: a folder is no place for a file, and a file none for a folder.
void require_place(const ExportCommand& command, bool file, const char* example) {
  const fs::path& output = command.common.output;
  std::error_code code;
  if (file && (fs::is_directory(output, code) || !output.has_filename())) {
    throw ValueError(fmt::format("{}: is a folder, expected as --output of {} the file to write, such as {}",
                                 output.string(), command.format, example));
  }
  if (!file && fs::exists(output, code) && !fs::is_directory(output, code)) {
    throw ValueError(fmt::format("{}: is a file, expected as --output of {} the folder to write",
                                 output.string(), command.format));
  }
}

void require_not_base(const fs::path& output, const fs::path& base) {
  std::error_code code;
  if (fs::equivalent(output, base, code))
    throw ValueError(output.string() + ": --output is the base model, expected another path");
}

/// Whole weights are not written over what they were made of.
void require_not_source(const TrainOptions& options) {
  std::error_code code;
  if (const fs::path& change = options.causal.value().change; fs::equivalent(options.output, change, code))
    throw ValueError(options.output.string() + ": --output is the adapter, expected another path");
  require_not_base(options.output, base_in_log(options.model));
}

void tell_written(const ExportCommand& command, std::string_view type) {
  if (!command.common.quiet) print("written: {}, {}\n", command.common.output.string(), type);
}

void export_merged(const ExportCommand& command) {
  require_place(command, false, "");
  const TrainOptions& options = command.common;
  const io::DType type = file_type_of(command);
  CausalSession<float, HostBackend> session(options, true);
  session.load_model(options, nothing_trained());
  session.source().save(options.output, session.model(), type);
  if (!options.quiet) print("{}", session.model_text());
  tell_written(command, command.save_dtype);
}

void export_gguf(const ExportCommand& command) {
  require_place(command, true, "model.gguf");
  const TrainOptions& options = command.common;
  const GgufType& type = gguf_type_of(command.save_dtype);
  const CausalSource source(options.model, options.causal.value().change);
  const std::vector<std::string> notes = write_gguf_model(source, type, options.output);
  if (!options.quiet) {
    print("model: {} ({})\n", options.model.string(), source.form());
    for (const std::string& note : notes)
      print("note: {}\n", note);
  }
  tell_written(command, type.name);
}

void export_adapter(const ExportCommand& command) {
  const TrainOptions& options = command.common;
  const bool peft = command.format == "peft";
  require_place(command, !peft, "adapter.gguf");
  const io::DType type = file_type_of(command);
  const RunAdapter run = run_adapter(options.model, command.base);
  require_not_base(options.output, run.base);
  if (peft)
    write_peft_adapter(options.output, run.adapter, run.base.string(), type);
  else
    write_gguf_adapter(options.output, run.adapter, run.config, type);
  if (!options.quiet) {
    print("adapter: rank {} beside {} matrices of {}; rounding beside it {:.1e} of a matrix's norm\n",
          run.adapter.rank, run.adapter.matrices.size(), run.base.string(), run.rounding);
  }
  tell_written(command, command.save_dtype);
}

void export_delta(const ExportCommand& command) {
  require_place(command, true, "delta.safetensors");
  const fs::path& output = command.common.output;
  if (output.extension() != ".safetensors") {
    throw ValueError(fmt::format("{}: expected as --output of delta a file *.safetensors", output.string()));
  }
  if (command.save_dtype != "float") {
    throw ValueError(fmt::format("--save-dtype is {}, expected float: a delta gives the run's own numbers",
                                 command.save_dtype));
  }
  const RunDelta run = run_delta(command.common.model, command.base);
  require_not_base(output, run.base);
  write_delta(output, run.delta, run.shapes);
  if (!command.common.quiet) {
    print("delta: {} of {} parameters of {} changed: {} by their entries, {} by factors, {} whole\n",
          run.delta.parameters.size(), run.shapes.size(), run.base.string(), run.by_entries, run.by_factors,
          run.whole);
    print("       {:.1f} MB, of {:.1f} MB of a whole model\n",
          static_cast<double>(fs::file_size(output)) / 1e6, static_cast<double>(run.model_bytes) / 1e6);
  }
  tell_written(command, "float");
}

}  // namespace

int run_export(const ExportCommand& command) {
  const std::string_view format = command.format;
  const std::map<std::string_view, void (*)(const ExportCommand&)> formats{{"merged", export_merged},
                                                                           {"gguf", export_gguf},
                                                                           {"peft", export_adapter},
                                                                           {"gguf-lora", export_adapter},
                                                                           {"delta", export_delta}};
  const auto found = formats.find(format);
  if (found == formats.end()) {
    throw ValueError(
        fmt::format("--format is '{}', expected merged, gguf, peft, gguf-lora or delta", format));
  }
  const bool whole = format == "merged" || format == "gguf";
  if (whole && !command.base.empty()) {
    throw ValueError(
        "--base-model is for adapters and deltas, --format peft, gguf-lora or delta; whole weights need no "
        "base");
  }
  if (!whole && !command.common.causal.value().change.empty()) {
    throw ValueError(fmt::format(
        "--adapter is put on whole weights, --format merged or gguf; {} is made of a run's model", format));
  }
  std::error_code code;
  if (fs::equivalent(command.common.output, command.common.model, code))
    throw ValueError("--output is the model itself, expected another path");
  if (whole) require_not_source(command.common);
  found->second(command);
  return 0;
}

}  // namespace sparsegrad::finetune
