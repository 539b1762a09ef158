#include "training/output/train_output.hpp"

#include <fmt/format.h>

#include "checkpoints/config_file.hpp"
#include "training/output/console.hpp"
#include "training/output/output_file.hpp"

namespace sparsegrad::finetune {

std::string metrics_text(const std::vector<Metric>& metrics) {
  std::string text;
  for (const Metric& metric : metrics)
    text += fmt::format("{}{} {:.4f}{}", text.empty() ? "" : ", ", metric.name, metric.value,
                        metric.defined ? "" : " (undefined)");
  return text;
}

void print_memory(const char* name, const MemoryAccount& account) {
  const MemoryParts& p = account.parts;
  print(
      "{}: peak {:.0f} MiB = program {:.0f} + weights {:.0f} + gradients {:.0f} + optimizer {:.0f} + "
      "activations {:.0f} "
      "+ basis {:.1f} + collection {:.0f} (sum {:.0f})\n",
      name, mib(account.process_peak), mib(p.program), mib(p.weights), mib(p.gradients), mib(p.optimizer),
      mib(p.activations), mib(p.basis), mib(p.collection), mib(p.sum()));
}

std::string other_options(const nlohmann::json& log, const TrainOptions& options) {
  nlohmann::json had = log.value("options", nlohmann::json::object());
  if (!had.is_object()) had = nlohmann::json::object();
  // As it would be read back: a path need not be UTF-8.
  constexpr auto replace = nlohmann::json::error_handler_t::replace;
  nlohmann::json wanted = nlohmann::json::parse(to_json(options).dump(-1, ' ', false, replace));
  for (const char* name : {"output", "threads", "products"}) {
    had.erase(name);
    wanted.erase(name);
  }
  return differences(had, wanted);
}

bool is_finished(const std::filesystem::path& log_path, const TrainOptions& options) {
  if (!exists(log_path)) return false;
  const nlohmann::json log = read_json(log_path);
  if (!log.is_object())
    throw ValueError(
        fmt::format("{}: expected the log of a run, an object, found {}; choose another --output",
                    log_path.string(), log.type_name()));
  const auto finished = log.find("finished");
  if (finished == log.end() || *finished != true) return false;
  if (const std::string other = other_options(log, options); !other.empty()) {
    throw ValueError(
        fmt::format("{}: a run with other options is finished there: {}; choose another --output, or replace "
                    "it by --overwrite without --resume",
                    log_path.string(), other));
  }
  return true;
}

}  // namespace sparsegrad::finetune
