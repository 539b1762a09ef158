#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <sparsegrad/version.hpp>

#include "checkpoints/config_file.hpp"
#include "data/glue.hpp"
#include "programs/commands.hpp"
#include "programs/end_message.hpp"
#include "programs/interrupt.hpp"
#include "programs/option_checks.hpp"
#include "programs/option_effects.hpp"
#include "programs/option_groups.hpp"
#include "programs/processes.hpp"
#include "replication/presets.hpp"
#include "training/output/console.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

namespace {

std::string task_names() {
  std::string names;
  for (const Task& task : all_tasks())
    names += (names.empty() ? "" : ", ") + std::string(task.name);
  return names;
}

/// Options that all commands have.
void add_common(CLI::App& app, TrainOptions& o) {
  app.add_option("--task", o.task, "GLUE task: " + task_names())->capture_default_str()->group("Input");
  app.add_option(
         "--model,--model-path", o.model,
         "folder of a BERT in Hugging Face form: config.json, model.safetensors, vocab.txt or tokenizer.json")
      ->required()
      ->group("Input");
  app.add_option("--data", o.data,
                 "folder with the GLUE data (the task's own folder, or the one above it). Default: "
                 "$SPARSEGRAD_GLUE_DIR; "
                 "else, for cola, a built-in set of acceptability judgements")
      ->group("Input");
  app.add_option("--max-length", o.max_length, "tokens of a sequence; longer ones are cut")
      ->capture_default_str()
      ->group("Input");
  add_choice<Padding>(
      app, "--padding", o.padding, {{"unpadded", Padding::unpadded}, {"max_length", Padding::max_length}},
      "unpadded: batches hold real tokens alone; max_length: every sequence is filled up, which computes "
      "the same, slower")
      ->group("Input");
  app.add_option("--dev-limit", o.dev_limit, "use only the first N dev examples (0: all)")
      ->capture_default_str()
      ->group("Input");
  add_machine_options(app, o, true);
}

/// Options of what trains: train and inspect.
void add_training(CLI::App& app, TrainOptions& o) {
  add_training_options(app, o);
  app.add_option_function<double>(
         "--dropout", [&o](const double& p) { o.dropout = p; },
         "probability of all dropouts (default: what the model's config.json says)")
      ->group("Training");
}

void add_glue_train_options(CLI::App& app, TrainOptions& o) {
  add_choice<RunType>(app, "--run-type", o.run_type,
                      {{"ft", RunType::ft},
                       {"sparse", RunType::sparse},
                       {"topk", RunType::topk},
                       {"lora", RunType::lora},
                       {"meprop", RunType::meprop},
                       {"frozen-mlp", RunType::frozen_mlp}},
                      "ft: AdamW on everything; sparse: SparseGrad on the MLP matrices, AdamW on the rest; "
                      "topk: the same without a "
                      "basis; lora: adapters beside the MLP matrices; meprop: the largest entries of each "
                      "row of the MLPs' dY; "
                      "frozen-mlp (control): the MLP matrices stay, AdamW on the rest")
      ->group("Training");
  add_choice<TrainedParameters>(
      app, "--train-parameters", o.trained,
      {{"all", TrainedParameters::all}, {"mlp", TrainedParameters::mlp}},
      "beside the MLP matrices: all, as the reference's code, or the MLPs' biases and the "
      "head alone, as the paper's text")
      ->group("Training");
  add_train_options(app, o);
  SparseOptions& s = o.sparse;
  const char* group = "Sparse gradients";
  app.add_option("--preset", o.preset, preset_text())
      ->default_str(fmt::format("{} for run type sparse", default_preset))
      ->group(group);
  add_choice<bool>(
      app, "--protocol", o.reference_protocol, {{"corrected", false}, {"reference", true}},
      "reference: epochs, early stopping, evaluations, padding and both phases as the reference's code has "
      "them, with everything under Replication switched on; what is given explicitly has precedence")
      ->group("Replication");
  app.add_flag(
         "--transposed-basis", s.defects.transposed_basis,
         "rotate the input side by U^T in place of U, as the reference's code: nothing is compacted there")
      ->group("Replication");
  app.add_flag("--rotated-bias", s.defects.rotated_bias,
               "leave the MLP biases' gradients in the rotated space, as the reference's code")
      ->group("Replication");
  app.add_flag("--frozen-layernorm", s.defects.frozen_layer_norm,
               "train no LayerNorm in run type sparse, as the reference's code")
      ->group("Replication");
  app.add_flag(
         "--signed-selection", s.defects.signed_selection,
         "keep the entries whose absolute value reaches the k-th largest signed one, as the reference's code")
      ->group("Replication");
}

/// A rank beyond a side's extent would be cut. What is wrong with the model's folder is told where it is opened.
void check_ranks_of_model(const std::set<std::string>& given, const TrainOptions& o) {
  std::optional<ModelConfig> config;
  try {
    config = read_encoder_config(o.model / "config.json");
  } catch (const std::exception&) {
    return;
  }
  check_ranks(given, o, rank_limits(*config));
}

/// What presets put in, the more particular first. Explicit options come before all of them. `given` gets those that are
/// explicit.
void apply_presets(CLI::App& app, TrainOptions& o, std::set<std::string>& given) {
  apply_options_file(app, o.options_file);
  given = given_options(app);
  if (o.reference_protocol) {
    if (o.run_type == RunType::meprop) {
      o.run_type = RunType::topk;
      if (!o.quiet) {
        print_error(
            "note: what the reference's code calls meprop keeps the largest entries of dW, this "
            "program's topk: "
            "run type topk is taken. For meProp itself leave --protocol reference out\n");
      }
    }
    if (o.run_type == RunType::topk) set_unless_given(app, "--adam", "dense_core");
    for (const auto& [name, value] : protocol_options())
      set_unless_given(app, std::string(name), std::string(value));
  }
  if (o.preset.empty() && o.run_type == RunType::sparse && !o.reference_protocol) o.preset = default_preset;
  apply_preset(app, o.preset);
}

/// What depends on the task and the model's files. From here on the task goes by the name of its table: CoLA and cola are
/// the same options.
void apply_task_presets(CLI::App& app, TrainOptions& o) {
  const Task& task = find_task(o.task);
  o.task = task.name;
  const bool in_glue = !task.layouts.empty();
  if (o.preset == "paper") {
    const ModelConfig config = read_encoder_config(o.model / "config.json");
    set_unless_given(app, "--lora-rank", fmt::format("{}", paper_lora_rank(config)));
    if (in_glue) {
      const PaperRate rate = paper_rate(config, o.task, o.run_type);
      set_unless_given(app, "--learning-rate", fmt::format("{}", rate.learning_rate));
      set_unless_given(app, "--batch-size", fmt::format("{}", rate.batch_size));
    }
  }
  if (o.reference_protocol && in_glue)
    set_unless_given(app, "--eval-every", fmt::format("{}", protocol_eval_every(o.task, o.batch_size)));
}

/// The reference's way to ask for a search; what answers is not this program.
constexpr const char* search_is_a_tool =
    "--optimize: this program trains once. examples/finetune/tools/glue_optimize.py searches with it: "
    "glue_optimize.py --program sparsegrad-glue --output DIR [--trials N] -- options of train";

void add_search(CLI::App& app, bool& search) {
  add_choice<bool>(app, "--optimize", search,
                   {{"True", true}, {"False", false}, {"true", true}, {"false", false}},
                   "False: train. The search that the reference asks for by True is tools/glue_optimize.py")
      ->group("Replication");
}

constexpr const char* program = "sparsegrad-glue";

int run(int argc, char** argv, Processes& processes) {
  CLI::App app("Fine-tunes BERT on GLUE tasks, densely or with SparseGrad's sparse gradients.", program);
  app.set_version_flag("--version", SPARSEGRAD_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.footer(footer);

  TrainOptions train;
  train.quiet = !processes.is_first();
  train.processes = processes.size();
  CLI::App* train_app = app.add_subcommand("train", "fine-tune a model; writes run.json and the best model");
  add_common(*train_app, train);
  add_training(*train_app, train);
  add_glue_train_options(*train_app, train);
  bool search = false;
  add_search(*train_app, search);
  train_app->footer(footer);

  EvaluateCommand evaluate_command;
  CLI::App* evaluate_app = app.add_subcommand("evaluate", "print a fine-tuned model's metrics");
  add_common(*evaluate_app, evaluate_command.common);
  evaluate_app->add_option("--batch-size", evaluate_command.common.batch_size, "most examples of a batch")
      ->capture_default_str()
      ->group("Machine");
  evaluate_app
      ->add_option("--train-limit", evaluate_command.common.train_limit,
                   "use only the first N training examples (0: all)")
      ->capture_default_str()
      ->group("Input");
  evaluate_app->add_option("--split", evaluate_command.split, "dev, train or test (which has no labels)")
      ->capture_default_str()
      ->group("Input");
  evaluate_app
      ->add_option(
          "--predictions", evaluate_command.predictions,
          "file to write: one line an example, logits with 9 significant digits separated by tabs, then the "
          "label of the data (nothing for --split test, whose labels are not read)")
      ->group("Output");
  evaluate_app
      ->add_option(
          "--submission", evaluate_command.submission,
          "file to write for GLUE's server (named CoLA.tsv and so on): index and prediction of each example")
      ->group("Output");
  evaluate_app->footer(footer);

  InspectCommand inspect;
  CLI::App* inspect_app =
      app.add_subcommand("inspect", "show where the energy of a model's gradients lies, in which basis");
  add_common(*inspect_app, inspect.common);
  add_training(*inspect_app, inspect.common);
  inspect_app
      ->add_option("--output", inspect.common.output, "folder for inspect.json and the data of its plots")
      ->required()
      ->group("Output");
  inspect_app
      ->add_option("--at-step", inspect.at_step,
                   "step whose gradients are measured, after the steps that the bases are fitted to")
      ->capture_default_str();
  inspect_app->add_option("--layer", inspect.layer,
                          "layer whose gradient is kept as a picture (default: the middle one)");
  inspect_app->footer(footer);
  for (CLI::App* command : {train_app, evaluate_app, inspect_app})
    check_numbers(*command);

  std::string trouble = no_command(app, argc, argv);
  if (trouble.empty()) trouble = empty_value(argc, argv);
  if (!trouble.empty()) {
    tell_error(processes, program, trouble);
    return 2;
  }
  std::vector<std::string> arguments = parser_words(argc, argv);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string& text = arguments[i];
    // The reference's flag, which takes no value.
    if (text == "-optimize") text = "--optimize";
    if (text == "--optimize" && (i == 0 || arguments[i - 1].starts_with('-'))) text += "=True";
  }
  std::set<std::string> given;
  try {
    app.parse(std::move(arguments));
    if (train_app->parsed() && !search) apply_presets(*train_app, train, given);
    if (search) throw ValueError(search_is_a_tool);  // an options file may ask for it too
  } catch (const CLI::ParseError& error) {
    return tell_parsed(processes, program, app, error);
  } catch (const std::exception& error) {
    tell_error(processes, program, error.what());
    return 2;
  }
  try {
    if (train_app->parsed()) {
      apply_task_presets(*train_app, train);
      check_ranks_of_model(given, train);
      if (processes.is_first()) {
        tell_effects(given, option_effects(train));
        tell_threads(train);
      }
      train.apply_run_type();
      return run_train(train, processes);
    }
    processes.require_one(evaluate_app->parsed() ? "evaluate" : "inspect");
    if (evaluate_app->parsed()) {
      tell_effects(given_options(*evaluate_app), option_effects(evaluate_command));
      tell_threads(evaluate_command.common);
      return run_evaluate(evaluate_command);
    }
    tell_effects(given_options(*inspect_app), option_effects(inspect));
    tell_threads(inspect.common);
    return run_inspect(inspect);
  } catch (const std::bad_alloc&) {
    const int threads = std::max({train.threads, evaluate_command.common.threads, inspect.common.threads});
    tell_error(processes, program,
               fmt::format("not enough memory; a smaller --batch-size with --accumulation needs less{}",
                           threads > 1 ? fmt::format(", and so do fewer than {} --threads", threads) : ""));
    return 1;
  } catch (const std::exception& error) {
    tell_error(processes, program, error.what());
    return 1;
  }
}

}  // namespace

int run_program(int argc, char** argv) {
  return run_in_processes(program, [&](Processes& processes) { return run(argc, argv, processes); });
}

}  // namespace sparsegrad::finetune
