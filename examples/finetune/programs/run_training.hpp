// A training run from its options to its log, whatever the kind of model.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "programs/interrupt.hpp"
#include "programs/run_processes.hpp"
#include "training/memory/memory_estimate.hpp"
#include "training/output/console.hpp"
#include "training/output/output_checks.hpp"
#include "training/output/output_file.hpp"
#include "training/output/output_folder.hpp"
#include "training/output/profile_table.hpp"
#include "training/output/progress_bar.hpp"
#include "training/output/run_log.hpp"
#include "training/output/train_output.hpp"
#include "training/run_device.hpp"

namespace sparsegrad::finetune {

/// A profile with the rates of this machine, which knows the weights of a model.
template <class T, class Backend>
std::unique_ptr<StepProfile> make_profile(typename Backend::Context& ctx,
                                          const ParameterSet<T, Backend>& parameters) {
  auto profile = std::make_unique<StepProfile>(measure_rates<T, Backend>(ctx), ctx.threads());
  for (const Parameter<T>& p : parameters.all()) {
    profile->add_weights(p.weight.data, p.weight.data + p.weight.size());
    if (!p.rounded.empty()) profile->add_weights(p.rounded.data, p.rounded.data + p.rounded.size());
  }
  return profile;
}

/// Trains as the options say, prints and logs it. `Run` is what a kind of model makes of them:
///     Run(options)                  reads the data; the model's files are looked at, not read
///     program, log_format           constants: the program's name, "format" of its log
///     estimate(options)             what it will take
///     start(options, communicator) -> trainer   makes the model and its trainer
///     ctx(), program_bytes(), parameters(), describe(log), warn(talk), tell(options), restore_weights(options), save(folder, type)
///     describe_results(report, log), tell_results(report)     what it says beside the report's own
/// `products`: what the log says of the products; `processes`: those that share the run. Returns the exit status; errors are exceptions.
template <class Run>
int run_training(const TrainOptions& options, const std::string& products, const RunProcesses& processes) {
  using Backend = typename Run::Backend;
  options.check();
  if (options.output.empty()) throw ValueError("--output DIR is missing: where the run's log and model go");
  const InterruptGuard guard;
  // Fails before the work rather than after it. Of several processes the first one alone writes there.
  const bool writes = processes.is_first();
  std::optional<OutputFolder> held;
  if (writes) held.emplace(options.output);
  const OutputPaths output(options.output);
  const auto log_path = output.log();
  const auto model_path = output.model();
  const auto checkpoint_path = output.checkpoint();
  const auto state_path = output.state();
  if (writes) held->require_not_written(options.model);
  if (processes.from_first(options.resume && writes && is_finished(log_path, options),
                           "whether the run is finished")) {
    if (!writes) return 0;
    held->remove_checkpoint();  // of a run that was killed between its last log and this
    print("finished already: {}\n", log_path.string());
    return 0;
  }
  if (writes) require_nothing_lost(output, options);

  Run run(options);
  MemoryEstimate estimate = run.estimate(options);
  if (!options.quiet) {
    const bool first = &estimate.largest() == &estimate.phase1;
    print("memory: up to {:.0f} MiB beside the program's {:.0f}{}\n", mib(estimate.largest().sum()),
          mib(run.program_bytes()), first ? ", in phase 1" : "");
    flush_output();
  }
  require_memory(estimate, RunDevice<Backend>::available_memory() / processes.on_host,
                 !options.ignore_memory);
  for (MemoryParts* parts : {&estimate.phase1, &estimate.training})
    if (parts->sum() > 0) parts->program = run.program_bytes();
  auto& trainer = run.start(options, processes.communicator);
  const MemoryParts& trained = estimate.training;
  if (writes) {
    require_room(output, options, run.parameters().count(),
                 run.parameters().weights().size() * static_cast<index_t>(sizeof(float)) + trained.optimizer +
                     trained.basis);
  }
  std::unique_ptr<StepProfile> profile;
  if constexpr (requires { run.ctx().profile(nullptr); }) {
    if (options.profile && writes) {
      profile = make_profile(run.ctx(), run.parameters());
      run.ctx().profile(profile.get());
    }
  }
  if (processes.from_first(options.resume && writes && output.has_state(), "whether there is a state")) {
    // The first one puts a torn file away before the others read.
    const std::string trouble = writes ? trainer.restore_state(state_path) : "";
    (void)processes.from_first(true, "the first rank's state");
    if (!writes) (void)trainer.restore_state(state_path);
    if (!trouble.empty()) print_error("warning: {}; going on from the state before it\n", trouble);
    if (!options.quiet) print("resumed after step {} of {}\n", trainer.steps_done(), trainer.steps_planned());
  } else if (writes) {
    held->clear();
  }
  trainer.require_same_state();
  TrainHooks hooks;
  hooks.interrupted = InterruptGuard::requested;
  hooks.restore_weights = [&] { run.restore_weights(options); };
  if (!writes) {
    hooks.checkpoint = [] {};
    trainer.run(hooks);
    return trainer.report().interrupted ? interrupted_status : 0;
  }

  nlohmann::json versions = versions_json();
  RunDevice<Backend>::describe(run.ctx(), versions);
  nlohmann::json log{{"format", Run::log_format},
                     {"options", to_json(options)},
                     {"versions", versions},
                     {"memory_estimate", to_json(estimate)},
                     {"trained",
                      {{"dense_parameters", trainer.dense_parameters()},
                       {"sparse_parameters", trainer.sparse_parameters()}}}};
  run.describe(log);
  EventLog events(output.tensorboard(), trainer.report());
  const auto write_log = [&](bool finished) {
    events.update(trainer.report());
    log["trained"]["sparse_entries_a_step"] = trainer.entries_a_step();  // known once there are bases
    log.update(to_json(trainer.report()));
    run.describe_results(trainer.report(), log);
    if (options.processes > 1) {
      const Traffic traffic = processes.communicator->traffic();
      log["processes"] = {{"count", options.processes},
                          {"on_first_host", processes.on_host},
                          {"sent_bytes", traffic.sent_bytes},
                          {"waited_seconds", traffic.waited_seconds}};
    }
    if (profile != nullptr && profile->steps() > 0) log["profile"] = to_json(*profile);
    log["finished"] = finished;
    write_json(log_path, log);
  };
  write_log(false);

  const bool talk = !options.quiet;
  run.warn(talk);
  if (talk) {
    print("{}", products);
    if (options.processes > 1) {
      print("processes: {}, {} of them on this host\n", options.processes, processes.on_host);
    }
    run.tell(options);
    print("run: {}, {} steps, {} parameters trained by AdamW", to_string(options.run_type),
          trainer.steps_planned(), trainer.dense_parameters());
    if (trainer.group() != nullptr) {
      print(", {} of {} {} entries a step by SparseAdam", trainer.entries_a_step(),
            trainer.sparse_parameters(), Run::matrices);
    }
    print("\n");
    flush_output();
  }

  ProgressBar bar(talk);
  hooks.progress = [&](std::string_view what, index_t done, index_t total) { bar.show(what, done, total); };
  if (options.save) {
    hooks.keep_best = [&] { run.save(model_path, file_type(options.save_dtype)); };
  }
  const auto save_state = [&] {
    // A run that goes on from the state repeats none of the records before it.
    events.update(trainer.report());
    make_folder(checkpoint_path);
    trainer.save_state(state_path);
  };
  hooks.checkpoint = [&] {
    save_state();
    write_log(false);
  };
  hooks.evaluated = [&](const EvaluationRecord& record) {
    bar.clear();
    if (talk) {
      print("step {:>6}  epoch {:.2f}  dev loss {:.4f}  {}{}\n", record.step, record.epoch, record.loss,
            metrics_text(record.metrics), record.best ? "  *" : "");
      flush_output();
    }
    write_log(false);
  };
  try {
    trainer.run(hooks);
  } catch (const std::exception& error) {
    log["error"] = error.what();
    try {
      write_log(false);
    } catch (const std::exception&) {
      // What ended the run is told, and not what came of it: a full disk takes no log either.
    }
    throw;
  }
  bar.clear();
  const TrainReport& report = trainer.report();
  if (report.interrupted) {
    if (options.save) run.save(checkpoint_path, io::DType::f32);
    // Phase 1 leaves nothing to go on from.
    const bool resumable = report.steps_done > 0 && (options.save || options.checkpoint_every > 0);
    if (resumable) save_state();
    write_log(false);
    print_error("interrupted after step {} of {}{}{}\n", report.steps_done, report.steps_planned,
                options.save ? "; the model as it was is in " + checkpoint_path.string() : "",
                resumable      ? "; --resume goes on from there"
                : options.save ? ""
                               : "; nothing of it is kept, because of --no-save");
    return interrupted_status;
  }
  write_log(true);
  held->remove_checkpoint();
  if (talk) {
    if (report.phase1.steps > 0) {
      print("phase 1: {} steps, {:.1f} s with {:.1f} s for the bases\n", report.phase1.steps,
            report.phase1.seconds, report.phase1.fit_seconds);
      print_memory("memory of phase 1", report.phase1.memory);
    }
    print("training: {} steps in {:.1f} s, {:.2f} steps/s; evaluation {:.1f} s{}\n", report.steps_done,
          report.training_seconds, static_cast<double>(report.steps_done) / report.training_seconds,
          report.evaluation_seconds, report.stopped_early ? "; stopped early" : "");
    print_memory("memory of training", report.memory);
    if (report.best) {
      const EvaluationRecord& best = report.evaluations[*report.best];
      print("best: step {}, {}\n", best.step, metrics_text(best.metrics));
    }
    run.tell_results(report);
    if (profile != nullptr) print("{}", profile_text(*profile));
    print("log: {}\n", log_path.string());
    if (options.save) print("model: {}\n", model_path.string());
  }
  return 0;
}

}  // namespace sparsegrad::finetune
