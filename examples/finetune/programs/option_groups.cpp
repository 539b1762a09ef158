#include "programs/option_groups.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>
#include <sparsegrad/backend/cpu.hpp>

#include "checkpoints/config_file.hpp"
#include "programs/option_checks.hpp"
#include "training/output/console.hpp"
#include "training/products.hpp"

namespace sparsegrad::finetune {

std::map<std::string, NumberType> number_types() {
  return {{"float", NumberType::float32}, {"bf16", NumberType::bfloat16}, {"fp16", NumberType::float16}};
}

void add_machine_options(CLI::App& app, TrainOptions& o, bool gpu) {
  if (gpu) {
    add_choice<Device>(app, "--device", o.device, {{"cpu", Device::cpu}, {"cuda", Device::cuda}},
                       "cuda: an NVIDIA GPU, in a program that was built with SPARSEGRAD_CUDA")
        ->group("Machine");
  }
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
  if (gpu) {
    app.add_flag(
           "--tf32", o.tf32,
           "on a GPU: products of the layers with 10 bits of mantissa, on tensor cores; sums of gradients "
           "for the bases stay in full precision")
        ->group("Machine");
  }
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
  app.add_flag("--quiet", o.quiet, "print nothing but errors, warnings and what was asked for")
      ->group("Machine");
}

void add_training_options(CLI::App& app, TrainOptions& o) {
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
  app.add_option("--process-timeout", o.process_timeout,
                 "of several processes (mpirun): the seconds that one waits for another before it ends and "
                 "names it")
      ->capture_default_str()
      ->group("Machine");
  add_choice<NumberType>(
      app, "--wire", o.wire, {{"float", NumberType::float32}, {"bf16", NumberType::bfloat16}},
      "of several processes (mpirun): the numbers in which they send each other gradients; "
      "bf16 is half of the bytes, and rounds")
      ->group("Machine");
  app.add_flag(
         "--ignore-memory", o.ignore_memory,
         "train though the estimate of its memory, or of its files, is above what is free; the system may "
         "end the run")
      ->group("Machine");
  app.add_flag_callback(
         "--no-save", [&o] { o.save = false; },
         "write no models, only the log; and at an interrupt no checkpoint, unless --checkpoint-every asks "
         "for "
         "them")
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
  app.add_flag(
         "--overwrite", o.overwrite,
         "replace model, checkpoint and log of another run in --output; without it they are left alone, "
         "and the run is refused")
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

std::set<std::string> given_options(const CLI::App& app) {
  std::set<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0 && !option->get_lnames().empty())
      names.insert("--" + option->get_lnames().front());
  }
  return names;
}

std::string preset_text(std::span<const Preset> presets) {
  std::string text = "bundle of other options; what is given explicitly has precedence. none: no bundle.";
  for (const Preset& preset : presets) {
    text += fmt::format(" {}: {} (", preset.name, preset.description);
    for (const auto& [option, value] : preset.options)
      text += fmt::format("{}{} {}", option == preset.options.front().first ? "" : " ", option, value);
    text += ").";
  }
  return text;
}

void apply_preset(CLI::App& app, const std::string& name, std::span<const Preset> presets) {
  if (name.empty() || name == "none") return;
  for (const auto& [option, value] : find_preset(name, presets).options) {
    // Two ways to say the same: the one that was given counts.
    if (option == "--share" && app.get_option("--n-params")->count() > 0) continue;
    if (option == "--n-params" && app.get_option("--share")->count() > 0) continue;
    set_unless_given(app, std::string(option), std::string(value));
  }
}

void tell_effects(const std::set<std::string>& given, const std::vector<OptionEffect>& effects) {
  for (const std::string& warning : check_effects(given, effects))
    print_error("warning: {}\n", warning);
}

void tell_threads(const TrainOptions& options) {
  if (options.threads <= 1) return;
  const std::string warning = check_threads(options, backend::Cpu::Context(0).threads());
  if (!warning.empty()) print_error("warning: {}\n", warning);
}

std::vector<std::string> parser_words(int argc, const char* const* argv) {
  std::vector<std::string> words;
  for (int i = argc - 1; i > 0; --i) {
    std::string text = argv[i];
    if (text.starts_with("--")) {
      const std::size_t end = std::min(text.find('='), text.size());
      std::replace(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
    }
    words.push_back(std::move(text));
  }
  return words;
}

}  // namespace sparsegrad::finetune
