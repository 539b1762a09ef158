#include <bit>

#include <fmt/format.h>

#include "programs/commands.hpp"
#include "programs/energy_survey.hpp"
#include "programs/interrupt.hpp"
#include "programs/unknown_tokens.hpp"
#include "training/output/console.hpp"
#include "training/output/output_file.hpp"
#include "training/output/output_folder.hpp"
#include "training/output/progress_bar.hpp"
#include "training/output/run_log.hpp"
#include "training/products.hpp"
#include "training/run_device.hpp"
#include "training/session.hpp"

namespace sparsegrad::finetune {

namespace {

namespace fs = std::filesystem;

/// NumPy's file format, version 1: one C-ordered matrix of float32.
std::string npy_text(const Picture& picture) {
  static_assert(std::endian::native == std::endian::little, "the header says little-endian");
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
                                   picture.rows, picture.cols);
  constexpr std::size_t fixed = 10;
  while ((fixed + header.size() + 1) % 64 != 0)
    header += ' ';
  header += '\n';
  std::string text("\x93NUMPY\x01\x00", 8);
  text += static_cast<char>(header.size() & 0xFF);
  text += static_cast<char>(header.size() >> 8);
  text += header;
  text.append(reinterpret_cast<const char*>(picture.values.data()), picture.values.size() * sizeof(float));
  return text;
}

}  // namespace

int run_inspect(const InspectCommand& command) {
  TrainOptions options = command.common;
  options.check_device();
  if (options.device != Device::cpu) throw ValueError("--device is cuda, inspect computes on the CPU alone");
  if (options.dtype != NumberType::float32) {
    throw ValueError(
        fmt::format("--dtype is {}, expected float: inspect computes in it alone", to_string(options.dtype)));
  }
  options.run_type = RunType::ft;
  options.max_steps = command.at_step;
  // As many epochs as the steps need.
  options.epochs = 1e6;
  options.check();
  const index_t fit_steps = options.sparse.phase1_steps;
  if (fit_steps < 1) throw ValueError(fmt::format("--phase1-steps is {}, expected at least 1", fit_steps));
  if (command.at_step <= fit_steps) {
    throw ValueError(
        fmt::format("--at-step is {}, expected more than --phase1-steps = {}: gradients that the bases were "
                    "fitted to tell nothing",
                    command.at_step, fit_steps));
  }
  const InterruptGuard guard;
  options.product_choice = choose_products(options).choice;
  // For one process at a time, as a run's: what is written stands side by side with what a run writes.
  const OutputFolder output(options.output);
  Session session(options, true);
  warn_of_unknown(session);
  session.load_model(options, trained_parts(options));
  const index_t layers = session.model().config().layers;
  if (command.layer >= layers) {
    throw ValueError(
        fmt::format("--layer is {}, expected one of the model's layers, 0 to {}", command.layer, layers - 1));
  }
  Trainer trainer(session.ctx(), session.model(), session.task(), session.train(), session.dev(), options,
                  session.program_bytes());

  ProgressBar bar(!options.quiet);
  SurveyOptions survey_options;
  survey_options.fit_steps = fit_steps;
  survey_options.at_step = command.at_step;
  survey_options.sparse = options.sparse;
  survey_options.drawn_layer = command.layer >= 0 ? command.layer : layers / 2;
  survey_options.interrupted = InterruptGuard::requested;
  survey_options.progress = [&](std::string_view what, index_t done, index_t total) {
    bar.show(what, done, total);
  };
  const Survey survey = survey_energy(session.ctx(), session.model(), trainer, survey_options);
  bar.clear();
  if (survey.interrupted) {
    print_error("interrupted\n");
    return interrupted_status;
  }

  nlohmann::json versions = versions_json();
  RunDevice<HostBackend>::describe(session.ctx(), versions);
  nlohmann::json json{{"format", "sparsegrad-glue inspect 1"},
                      {"versions", versions},
                      {"data", session.data_json()},
                      {"model", session.model_json()},
                      {"options", to_json(options)}};
  json.update(to_json(survey));
  write_json(options.output / "inspect.json", json);
  for (const Picture& picture : survey.pictures)
    write_file(options.output / (picture.name + ".npy"), npy_text(picture));

  const bool talk = !options.quiet;
  if (talk) print("data: {}\n", session.source().text);
  if (const std::string text = session.load_report().text(); talk && !text.empty())
    print("model: {}\n", text);
  print("share of the energy of dW at step {} in its {} largest entries ({:.2f} % of a matrix)\n\n",
        survey.at_step, survey.kept,
        100.0 * static_cast<double>(survey.kept) /
            static_cast<double>(session.model().config().hidden * session.model().config().intermediate));
  print("{}", table_text(survey));
  if (talk) {
    print("\ndata of the plots: {}; tools/plot_inspect.py {} (examples/finetune) draws them\n",
          (options.output / "inspect.json").string(), options.output.string());
  }
  return 0;
}

}  // namespace sparsegrad::finetune
