#include <algorithm>
#include <map>
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
#include "programs/interrupt.hpp"
#include "programs/option_checks.hpp"
#include "programs/option_effects.hpp"
#include "replication/presets.hpp"
#include "training/output/console.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

namespace {

constexpr const char* footer =
    "Exit status: 0 done; 1 an error, told on stderr; 2 a command line that is not understood; 130 "
    "interrupted (Ctrl-C,\n"
    "SIGTERM, SIGHUP): the step was finished, the log and a checkpoint were written.";

std::string task_names() {
  std::string names;
  for (const Task& task : all_tasks())
    names += (names.empty() ? "" : ", ") + std::string(task.name);
  return names;
}

std::string preset_text() {
  std::string text = "bundle of options below; what is given explicitly has precedence. none: no bundle.";
  for (const Preset& preset : all_presets()) {
    text += fmt::format(" {}: {} (", preset.name, preset.description);
    for (const auto& [option, value] : preset.options)
      text += fmt::format("{}{} {}", option == preset.options.front().first ? "" : " ", option, value);
    text += ").";
  }
  return text;
}

template <class E>
CLI::Option* add_choice(CLI::App& app, const char* name, E& value, std::map<std::string, E> names,
                        const char* help) {
  std::string shown;
  std::string now;
  for (const auto& [key, entry] : names) {
    shown += (shown.empty() ? "" : "|") + key;
    if (entry == value) now = key;
  }
  CLI::Option* option = app.add_option_function<std::string>(
      name,
      [&value, names, name](const std::string& text) {
        const auto found = names.find(text);
        if (found != names.end()) {
          value = found->second;
          return;
        }
        std::string known;
        for (const auto& entry : names)
          known += (known.empty() ? "" : ", ") + entry.first;
        throw CLI::ValidationError(name, fmt::format("is '{}', expected one of: {}", text, known));
      },
      help);
  return option->type_name(shown)->default_str(now);
}

std::map<std::string, NumberType> number_types() {
  return {{"float", NumberType::float32}, {"bf16", NumberType::bfloat16}, {"fp16", NumberType::float16}};
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
  add_choice<Device>(
      app, "--device", o.device, {{"cpu", Device::cpu}, {"cuda", Device::cuda}},
      "cuda: an NVIDIA GPU, in a program that was built with SPARSEGRAD_CUDA (train and evaluate)")
      ->group("Machine");
  app.add_option_function<std::string>(
         "--dtype",
         [&o](const std::string& text) {
           const std::map<std::string, NumberType> types = number_types();
           const auto found = types.find(text);
           o.choose_dtype = text == "auto";
           if (found == types.end() && !o.choose_dtype)
             throw CLI::ValidationError(
                 "--dtype", fmt::format("is '{}', expected one of: auto, bf16, float, fp16", text));
           o.dtype = o.choose_dtype ? NumberType::float32 : found->second;
         },
         "of activations and of what products read; weights, optimizer and losses stay float. auto, on the "
         "CPU: bf16 where it multiplies that faster, else float; fp16: on a GPU alone")
      ->type_name("auto|bf16|float|fp16")
      ->default_str("float")
      ->group("Machine");
  app.add_flag(
         "--tf32", o.tf32,
         "on a GPU: products of the layers with 10 bits of mantissa, on tensor cores; sums of gradients "
         "for the bases stay in full precision")
      ->group("Machine");
  app.add_option(
         "--products", o.products,
         "on the CPU: the library that multiplies, " + fmt::format("{}", fmt::join(product_names(), ", ")) +
             "; auto: the fastest here, which is measured at the start; with --resume that of the run, with "
             "--deterministic the first")
      ->capture_default_str()
      ->group("Machine");
  check_int(*app.add_option("--threads", o.threads,
                            "threads (0: as many as affinity and the quotas of control groups allow)")
                 ->capture_default_str()
                 ->group("Machine"));
  app.add_flag("--deterministic", o.deterministic, "same bits for any number of threads, at some cost")
      ->group("Machine");
  app.add_flag("--quiet", o.quiet, "print nothing but errors and results")->group("Machine");
}

/// Options of what trains: train and inspect.
void add_training(CLI::App& app, TrainOptions& o) {
  app.add_option("--train-limit", o.train_limit, "use only the first N training examples (0: all)")
      ->capture_default_str()
      ->group("Input");
  app.add_option("--batch-size", o.batch_size, "examples of a micro-batch")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--accumulation", o.accumulation,
                 "micro-batches of an optimizer step; gradients are means over all their examples")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--learning-rate,--lr", o.learning_rate, "of AdamW")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--weight-decay", o.weight_decay, "decoupled, not on biases and LayerNorms")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--clip-norm", o.clip_norm, "largest norm of the whole gradient (0: off)")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--seed", o.seed, "of the order of examples, dropout, and a new head")
      ->capture_default_str()
      ->group("Training");
  app.add_option_function<double>(
         "--dropout", [&o](const double& p) { o.dropout = p; },
         "probability of all dropouts (default: what the model's config.json says)")
      ->group("Training");
  app.add_flag_callback(
         "--no-shuffle", [&o] { o.shuffle = false; }, "take the examples in the order of the file")
      ->group("Training");
  SparseOptions& s = o.sparse;
  const char* group = "Sparse gradients";
  CLI::Option* n_params =
      app.add_option(
             "--n-params", s.n_params,
             "entries that a step changes in a matrix of 768 x 3072, scaled to the size of the model's "
             "matrices: 28000 "
             "is 1.2 % of any size")
          ->capture_default_str()
          ->group(group);
  CLI::Option* share =
      app.add_option("--share", s.share,
                     "the same as a share of a matrix's entries, in (0, 1], in place of --n-params")
          ->group(group)
          ->excludes(n_params);
  check_share(*share);
  app.add_option("--phase1-steps", s.phase1_steps,
                 "dense steps whose gradients the bases are fitted to (paper: 30, its code: 11); left out "
                 "when no side "
                 "needs gradients")
      ->capture_default_str()
      ->group(group);
  app.add_flag("--phase1-fixed-matrices", s.phase1_fixed_matrices,
               "in phase 1 all else trains, the MLP matrices only give their gradients: without their dense "
               "optimizer phase 1 needs little more memory than the steps after it")
      ->group(group);
  app.add_flag("--normalize", s.normalize, "each collected gradient enters with norm 1")->group(group);
}

void add_train_options(CLI::App& app, TrainOptions& o) {
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
  app.add_option("--lora-rank", o.lora.rank, "of the adapters of run type lora")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--lora-scale", o.lora.scale, "factor of the adapters (0: 1 / rank)")
      ->capture_default_str()
      ->group("Training");
  add_choice<LoraInit>(
      app, "--lora-init", o.lora.init, {{"kaiming", LoraInit::kaiming}, {"gaussian", LoraInit::gaussian}},
      "of A, B being 0: kaiming is uniform in +-1 / sqrt(in), gaussian has deviation 1 / rank")
      ->group("Training");
  app.add_option("--meprop-share", o.meprop_share, "of each row of dY that run type meprop keeps")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--output", o.output,
                 "folder for run.json, model/ (the best one) and, after an interrupt, checkpoint/")
      ->required()
      ->group("Output");
  app.add_flag_callback(
         "--no-save", [&o] { o.save = false; }, "write no models, only the log")
      ->group("Output");
  add_choice<NumberType>(app, "--save-dtype", o.save_dtype, number_types(), "of the best model's file")
      ->group("Output");
  app.add_option("--epochs", o.epochs, "passes over the training set")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--max-steps", o.max_steps, "end after N optimizer steps (0: no limit beside --epochs)")
      ->capture_default_str()
      ->group("Training");
  app.add_option_function<double>(
         "--sparse-learning-rate", [&o](const double& rate) { o.sparse_learning_rate = rate; },
         "of the MLP matrices (default: --learning-rate)")
      ->group("Training");
  add_choice<Schedule>(app, "--schedule", o.schedule,
                       {{"constant", Schedule::constant}, {"linear", Schedule::linear}},
                       "of the learning rates, after the warm-up; linear falls to 0 at the last step")
      ->group("Training");
  app.add_option("--warmup", o.warmup,
                 "steps (below 1: share of all steps) over which the learning rates rise from 0")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--eval-every", o.eval_every,
                 "evaluate on dev every N steps (0: only at the end of each epoch, which is done anyway)")
      ->capture_default_str()
      ->group("Output");
  app.add_option("--patience", o.patience,
                 "stop after N evaluations without a better main metric (0: never); judged on dev, as is the "
                 "best model")
      ->capture_default_str()
      ->group("Output");
  app.add_option("--checkpoint-every", o.checkpoint_every,
                 "write the whole state to checkpoint/ every N steps (0: only at an interrupt)")
      ->capture_default_str()
      ->group("Output");
  app.add_flag("--resume", o.resume,
               "go on from checkpoint/ where there is one, with the same bits as a run that was never ended; "
               "a run that "
               "is finished is left alone")
      ->group("Output");
  app.add_option(
         "--held-out", o.held_out,
         "evaluate on this share of the training examples in place of dev, and do not train on it (0: dev)")
      ->capture_default_str()
      ->group("Input");
  app.add_option(
         "--options", o.options_file,
         "JSON file of options of this command, {\"learning-rate\": 1e-4}: tools/glue_optimize.py writes "
         "one; the command line has precedence")
      ->group("Input");
  app.add_option("--log-every", o.log_every, "steps between two records of the log")
      ->capture_default_str()
      ->group("Output");
  app.add_flag(
         "--profile", o.profile,
         "on the CPU: end with a table of where the steps' time went, by kind of work beside its limit; "
         "--threads 1 counts processor time, which other programs do not disturb")
      ->group("Output");

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
  add_choice<BasisScope>(app, "--basis-scope", s.scope,
                         {{"kind", BasisScope::kind}, {"layer", BasisScope::layer}},
                         "which matrices share a basis: all up (all down) matrices, as the paper, or none")
      ->group(group);
  const std::string rules =
      " side: identity (not rotated), full (HOSVD), a rank such as 64, an energy share such as 0.95, "
      "hadamard[:seed], "
      "random[:rank[:seed]]";
  app.add_option("--width-side", s.sides.width, "the model-width" + rules)
      ->capture_default_str()
      ->group(group);
  app.add_option("--other-side", s.sides.other, "the inner" + rules)->capture_default_str()->group(group);
  app.add_option("--out-side", s.sides.out, "the output side of every matrix, in place of the two above")
      ->group(group);
  app.add_option("--in-side", s.sides.in, "the input side of every matrix, in place of the two above")
      ->group(group);
  app.add_option("--refresh-every", s.refresh_every, "fit the bases anew every N steps (0: never)")
      ->capture_default_str()
      ->group(group);
  app.add_option("--refresh-window", s.refresh_window,
                 "steps before a refresh whose gradients it is fitted to")
      ->capture_default_str()
      ->group(group);
  app.add_flag("--keep-phase1", s.keep_phase1,
               "keep the weights of phase 1 (the reference code's head start); else they are as before it")
      ->group("Replication");
  add_choice<AdamSemantics>(
      app, "--adam", s.adam,
      {{"torch", AdamSemantics::torch},
       {"per_entry_step", AdamSemantics::per_entry_step},
       {"dense_core", AdamSemantics::dense_core}},
      "moments of entries that are not in every gradient: torch: those of torch.optim.SparseAdam; "
      "per_entry_step: each entry counts its own steps; dense_core: all move in every step")
      ->group(group);
  app.add_option(
         "--plan", s.plan,
         "order of the products: auto (the cheapest), multiply_first, project_first, out_first, in_first")
      ->capture_default_str()
      ->group(group);
  app.add_option("--state-capacity", s.state_capacity,
                 "room of SparseAdam's state as a multiple of the entries of a step; a state that outgrows "
                 "it becomes "
                 "dense (0: dense from the start)")
      ->capture_default_str()
      ->group(group);
  add_choice<Overflow>(app, "--state-overflow", s.overflow,
                       {{"go_dense", Overflow::go_dense}, {"evict_smallest", Overflow::evict_smallest}},
                       "what SparseAdam's state does when it outgrows its room: go_dense keeps every moment, "
                       "evict_smallest forgets the smallest")
      ->group(group);
  app.add_flag_callback(
         "--own-gradient-memory", [&s] { s.share_gradient_memory = false; },
         "a gradient memory for each matrix; else, on a CPU and in steps of one micro-batch without "
         "clipping, "
         "one serves all")
      ->group(group);
  add_choice<MomentsPolicy>(app, "--moments", s.moments,
                            {{"reset", MomentsPolicy::reset}, {"transport", MomentsPolicy::transport}},
                            "what becomes of SparseAdam's state when a basis is refreshed")
      ->group(group);
}

/// Gives the option a value unless it has one.
void set_unless_given(CLI::App& app, const std::string& name, const std::string& value) {
  CLI::Option* option = app.get_option(name);
  if (option->count() > 0) return;
  option->add_result(value);
  option->run_callback();
}

void apply_options_file(CLI::App& app, const std::filesystem::path& path) {
  if (path.empty()) return;
  std::vector<std::string> keys;
  const nlohmann::json file = read_json(path, &keys);
  if (!file.is_object())
    throw ValueError(fmt::format("{}: expected an object of options and their values", path.string()));
  const auto option_of = [&](std::string key) {
    std::replace(key.begin(), key.end(), '_', '-');
    return app.get_option_no_throw("--" + key);
  };
  // --share and --n-params are two ways to say the same.
  const CLI::Option* const entries = app.get_option("--n-params");
  const CLI::Option* const share = app.get_option("--share");
  const auto said_by = [&](const CLI::Option* option) { return option == share ? entries : option; };
  const bool entries_given = entries->count() > 0 || share->count() > 0;
  std::map<const CLI::Option*, std::string> first;
  for (const std::string& key : keys) {
    const CLI::Option* option = option_of(key);
    if (option == nullptr) continue;
    const auto [at, fresh] = first.emplace(said_by(option), key);
    if (!fresh) {
      throw ValueError(fmt::format("{}: '{}' and '{}' are the same option, expected it once", path.string(),
                                   at->second, key));
    }
  }
  for (const auto& [key, value] : file.items()) {
    CLI::Option* option = option_of(key);
    const bool is_of_command_line = option == app.get_help_ptr() || option == app.get_option("--options");
    if (option == nullptr || is_of_command_line || value.is_structured() || value.is_null() || value == "") {
      throw ValueError(fmt::format("{}: '{}' is {}, expected an option of this command with its value{}",
                                   path.string(), key, value.dump(),
                                   is_of_command_line ? " (not --help, not --options)" : ""));
    }
    if (said_by(option) == entries && entries_given) continue;
    set_unless_given(app, "--" + option->get_lnames().front(),
                     value.is_string() ? value.get<std::string>() : value.dump());
  }
}

/// The options that have a value, by their names ("--learning-rate").
std::set<std::string> given_options(const CLI::App& app) {
  std::set<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0 && !option->get_lnames().empty())
      names.insert("--" + option->get_lnames().front());
  }
  return names;
}

/// Refuses, or tells of, options that were given and change nothing.
template <class Options>
void tell_effects(const std::set<std::string>& given, const Options& options) {
  for (const std::string& warning : check_effects(given, option_effects(options)))
    print_error("warning: {}\n", warning);
}

/// A rank beyond a side's extent would be cut. What is wrong with the model's folder is told where it is opened.
void check_ranks_of_model(const std::set<std::string>& given, const TrainOptions& o) {
  if (o.run_type != RunType::sparse) return;
  std::optional<ModelConfig> config;
  try {
    config = read_encoder_config(o.model / "config.json");
  } catch (const std::exception&) {
    return;
  }
  check_ranks(given, o.sparse.sides, *config);
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
  if (o.preset.empty() || o.preset == "none") return;
  for (const auto& [name, value] : find_preset(o.preset).options) {
    // Two ways to say the same: the one that was given counts.
    if (name == "--share" && app.get_option("--n-params")->count() > 0) continue;
    if (name == "--n-params" && app.get_option("--share")->count() > 0) continue;
    set_unless_given(app, std::string(name), std::string(value));
  }
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

int run(int argc, char** argv) {
  CLI::App app("Fine-tunes BERT on GLUE tasks, densely or with SparseGrad's sparse gradients.",
               "sparsegrad-glue");
  app.set_version_flag("--version", SPARSEGRAD_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.footer(footer);

  TrainOptions train;
  CLI::App* train_app = app.add_subcommand("train", "fine-tune a model; writes run.json and the best model");
  add_common(*train_app, train);
  add_training(*train_app, train);
  add_train_options(*train_app, train);
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

  if (const std::string trouble = empty_value(argc, argv); !trouble.empty()) {
    print_error("sparsegrad-glue: {}\n", trouble);
    return 2;
  }
  // Names may be spelt with underscores.
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    std::string text = argv[i];
    // The reference's flag, which takes no value.
    if (text == "-optimize") text = "--optimize";
    if (text == "--optimize" && (i + 1 == argc || argv[i + 1][0] == '-')) text += "=True";
    if (text.starts_with("--")) {
      const std::size_t end = std::min(text.find('='), text.size());
      std::replace(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
    }
    arguments.push_back(std::move(text));
  }
  std::set<std::string> given;
  try {
    app.parse(std::move(arguments));
    if (train_app->parsed() && !search) apply_presets(*train_app, train, given);
    if (search) throw ValueError(search_is_a_tool);  // an options file may ask for it too
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    print_error("sparsegrad-glue: {}\n", error.what());
    return 2;
  }
  try {
    if (train_app->parsed()) {
      apply_task_presets(*train_app, train);
      check_ranks_of_model(given, train);
      tell_effects(given, train);
      train.apply_run_type();
      return run_train(train);
    }
    if (evaluate_app->parsed()) {
      tell_effects(given_options(*evaluate_app), evaluate_command);
      return run_evaluate(evaluate_command);
    }
    tell_effects(given_options(*inspect_app), inspect);
    return run_inspect(inspect);
  } catch (const std::bad_alloc&) {
    const int threads = std::max({train.threads, evaluate_command.common.threads, inspect.common.threads});
    print_error(
        "sparsegrad-glue: not enough memory; a smaller --batch-size with --accumulation needs less{}\n",
        threads > 1 ? fmt::format(", and so do fewer than {} --threads", threads) : "");
    return 1;
  } catch (const std::exception& error) {
    print_error("sparsegrad-glue: {}\n", error.what());
    return 1;
  }
}

}  // namespace

int run_program(int argc, char** argv) {
  prepare_console();
  const int status = run(argc, argv);
  const std::string lost = lost_output();
  if (lost.empty()) return status;
  print_error("sparsegrad-glue: standard output: {}; files are whole, what was printed is not\n", lost);
  return status == 0 ? 1 : status;
}

}  // namespace sparsegrad::finetune
