#include "training/output/output_checks.hpp"

#include <sys/statvfs.h>

#include <algorithm>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoints/config_file.hpp"
#include "models/model_error.hpp"
#include "training/output/train_output.hpp"

namespace sparsegrad::finetune {

void require_nothing_lost(const OutputPaths& output, const TrainOptions& options) {
  if (options.overwrite) return;
  if (!output.has_results()) {
    // The log is all that a run without models leaves. With the same options it would become the same again.
    if (output.has_log()) (void)is_finished(output.log(), options);
    return;
  }
  if (!options.resume) {
    throw ValueError(
        fmt::format("{}: holds the {} of another run; --resume goes on with that run, --overwrite replaces "
                    "it, and another "
                    "--output leaves it alone",
                    output.path().string(), output.has_state() ? "checkpoint" : "model"));
  }
  if (output.has_state()) return;  // whose options are compared when it is read
  const std::string other = other_options(read_json(output.log()), options);
  if (other.empty()) return;
  throw ValueError(
      fmt::format("{}: holds the model of a run with other options: {}; resume with the same options, choose "
                  "another --output, or replace it by --overwrite",
                  output.path().string(), other));
}

void require_room(const OutputPaths& output, const TrainOptions& options, index_t parameters,
                  index_t state_bytes) {
  const auto of = [&](NumberType type) {
    return parameters * static_cast<index_t>(type == NumberType::float32 ? sizeof(float) : sizeof(float) / 2);
  };
  // A file is written beside the one that it replaces. At an interrupt the model as it was is written in float.
  const index_t best = options.save ? of(options.save_dtype) : 0;
  const index_t model = options.save ? best + std::max(best, of(NumberType::float32)) : 0;
  const index_t states = options.checkpoint_every > 0 ? 3 : options.save ? 1 : 0;
  const index_t needed = model + states * state_bytes;
  struct statvfs room {};
  if (options.ignore_memory || statvfs(output.path().c_str(), &room) != 0) return;
  const index_t free =
      static_cast<index_t>(room.f_bavail) * static_cast<index_t>(room.f_frsize) + output.bytes();
  if (needed <= free) return;
  throw ModelError(fmt::format(
      "{}: this run writes up to {:.1f} MiB there (models {:.1f}, checkpoints {:.1f}), each file beside the "
      "one "
      "that it replaces; {:.1f} MiB are free. Another --output has more, --save-dtype bf16, --no-save or no "
      "--checkpoint-every need less; --ignore-memory goes on all the same",
      output.path().string(), mib(needed), mib(model), mib(needed - model), mib(free)));
}

}  // namespace sparsegrad::finetune
