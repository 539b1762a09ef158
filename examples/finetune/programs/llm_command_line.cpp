#include <algorithm>
#include <exception>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>
#include <sparsegrad/version.hpp>

#include "data/chat_template.hpp"
#include "models/decoder/decoder_names.hpp"
#include "programs/end_message.hpp"
#include "programs/llm_commands.hpp"
#include "programs/llm_help.hpp"
#include "programs/option_checks.hpp"
#include "programs/option_groups.hpp"
#include "programs/processes.hpp"
#include "training/causal_parts.hpp"
#include "training/causal_source.hpp"
#include "training/output/console.hpp"

namespace sparsegrad::finetune {

namespace {

/// What the options are before a command line says otherwise.
TrainOptions default_options() {
  TrainOptions o;
  o.causal = CausalOptions();
  o.trained = TrainedParameters::mlp;
  o.epochs = 1;
  o.batch_size = 4;
  o.accumulation = 2;
  o.learning_rate = 1e-3;  // the best one of the default run type in docs/results/llm_table6.md
  o.max_length = 1024;
  o.held_out = 0.05;
  o.lora.rank = 16;
  o.lora.scale = 2;  // docs/llm.md has the losses of others
  o.sparse.phase1_fixed_matrices = true;
  o.evaluates_first = true;
  return o;
}

void add_model_alone(CLI::App& app, TrainOptions& o) {
  app.add_option("--model", o.model,
                 "a GGUF file, or a folder in Hugging Face form: LLaMA, SmolLM2, TinyLlama, Mistral, Qwen2")
      ->required()
      ->group("Input");
}

void add_model(CLI::App& app, TrainOptions& o) {
  add_model_alone(app, o);
  add_machine_options(app, o, true);
}

/// What is put on the model.
void add_change(CLI::App& app, CausalOptions& c) {
  app.add_option("--adapter", c.change,
                 "what is put on the model: a peft folder, a GGUF LoRA, or a delta of export --format delta")
      ->group("Input");
}

void add_chat(CLI::App& app, CausalOptions& c) {
  app.add_option(
         "--chat-template", c.chat_template,
         fmt::format("how conversations are written: {} (default: what the model carries, where it is one "
                     "of these)",
                     fmt::join(ChatTemplate::names(), ", ")))
      ->group("Input");
  app.add_option("--chat-date", c.chat_date,
                 "the date that LLaMA-3.1's template and its like tell the model as today's")
      ->capture_default_str()
      ->group("Input");
}

/// What data are read, and how.
void add_data(CLI::App& app, TrainOptions& o) {
  CausalOptions& c = *o.causal;
  app.add_option(
         "--data", o.data,
         "JSON lines, or one JSON array, of question and answer; instruction, input and output; prompt and "
         "completion; messages; trees of OpenAssistant; or multiple choice")
      ->required()
      ->group("Input");
  app.add_option("--fields", c.fields, "names of the fields of question and answer: QUESTION,ANSWER")
      ->group("Input");
  app.add_flag("--all-paths", c.all_paths,
               "of an OpenAssistant tree: every path to a last answer, and not the best-ranked one alone")
      ->group("Input");
  app.add_option("--max-length", o.max_length,
                 "tokens of an example, at most the model's positions; of longer ones the end is cut")
      ->capture_default_str()
      ->group("Input");
  app.add_option("--dev-limit", o.dev_limit, "evaluate on the first N held-out examples alone (0: all)")
      ->capture_default_str()
      ->group("Input");
  add_chat(app, c);
}

/// How weights that are not trained in place are kept.
void add_base(CLI::App& app, CausalOptions& c) {
  add_choice<Base>(app, "--base", c.base, {{"float", Base::in_float}, {"file", Base::in_file}},
                   "what is not trained in place. float: converted when it is read; file: as the file has it "
                   "(quantised, or 16 bits), which is mapped, and converted within the products")
      ->group("Machine");
}

/// What is trained, and how.
void add_choice_of_matrices(CLI::App& app, TrainOptions& o) {
  CausalOptions& c = *o.causal;
  add_choice<RunType>(
      app, "--run-type", o.run_type,
      {{"ft", RunType::ft},
       {"sparse", RunType::sparse},
       {"topk", RunType::topk},
       {"lora", RunType::lora},
       {"meprop", RunType::meprop},
       {"frozen", RunType::frozen_mlp}},
      "of the chosen matrices. ft: AdamW on all of their entries; sparse: SparseGrad; topk: the "
      "same without a basis; lora: adapters beside them; meprop: the largest entries of each row "
      "of their dY; frozen: they stay as they are (control)")
      ->group("Training");
  add_base(app, c);
  app.add_flag("--recompute", c.recompute,
               "keep of a block's activations its input alone, and compute the others again in the backward "
               "pass: the same numbers in less memory and more time")
      ->group("Training");
  app.add_option("--tokens-per-batch", o.tokens_per_batch,
                 "fill micro-batches with the examples of a step (--batch-size times --accumulation) up to N "
                 "tokens, in place of --batch-size examples each (0: do not)")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--matrices", c.matrices,
                 "which of a block's matrices train: some of q,k,v,o,gate,up,down, or all")
      ->capture_default_str()
      ->group("Training");
  app.add_option("--blocks", c.blocks,
                 "of which blocks: every-third, every-second, all, or numbers such as 0,3,6")
      ->capture_default_str()
      ->group("Training");
  add_choice<TrainedParameters>(
      app, "--train-parameters", o.trained,
      {{"matrices", TrainedParameters::mlp}, {"all", TrainedParameters::all}},
      "matrices: the chosen matrices alone; all: norms, embeddings, biases and the head too, by AdamW")
      ->group("Training");
}

void add_llm_train_options(CLI::App& app, TrainOptions& o) {
  CausalOptions& c = *o.causal;
  add_training_options(app, o);
  add_train_options(app, o);
  app.add_option(
         "--adapter", c.start,
         "a LoRA to go on from, a peft folder or a GGUF file: the run is of type lora, with its matrices, "
         "blocks, rank and scale")
      ->group("Input");
  app.add_option("--validation", c.validation, "file to evaluate on, in place of a part of --data")
      ->group("Input");
  app.add_option("--evaluate-also", c.evaluate_also,
                 "NAME=FILE, which may be repeated: with each evaluation the loss on the answers of another "
                 "file too, which chooses nothing; before and after training it shows what is forgotten. Its "
                 "fields are told from its first record")
      ->type_name("NAME=FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->group("Input");
  app.add_option("--split-seed", c.split_seed, "which examples of --data are held out")
      ->capture_default_str()
      ->group("Input");
  describe_for_language_models(app);
  app.add_option("--preset", o.preset, preset_text(language_model_presets()))
      ->default_str(fmt::format("{} for run type sparse", "best"))
      ->group("Sparse gradients");
}

/// What presets put in. `given` gets the options that are explicit.
void apply_llm_presets(CLI::App& app, TrainOptions& o, std::set<std::string>& given) {
  apply_options_file(app, o.options_file);
  given = given_options(app);
  if (!o.causal->start.empty()) {
    for (const char* name : {"--matrices", "--blocks", "--lora-rank", "--lora-scale"}) {
      if (given.contains(name))
        throw ValueError(fmt::format("{} is given, expected it without --adapter, whose it is then", name));
    }
    set_unless_given(app, "--run-type", "lora");
  }
  if (o.preset.empty() && o.run_type == RunType::sparse) o.preset = "best";
  apply_preset(app, o.preset, language_model_presets());
}

/// Nothing where the model's files cannot be read, which is told where they are opened.
std::optional<DecoderConfig> config_of(const TrainOptions& o) {
  try {
    return read_decoder_config(o.model);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

/// The default length, where the model has fewer positions.
void fit_length(const std::set<std::string>& given, const std::optional<DecoderConfig>& config,
                TrainOptions& o) {
  if (config && !given.contains("--max-length")) o.max_length = std::min(o.max_length, config->max_positions);
}

/// A rank beyond a side's extent would be cut.
void check_ranks_of_decoder(const std::set<std::string>& given, const std::optional<DecoderConfig>& config,
                            const TrainOptions& o) {
  if (!config) return;
  RankLimits most;
  most.width = config->hidden;
  for (const MatrixKind kind : parse_matrices(o.causal->matrices)) {
    const auto [out, in] = matrix_extents(*config, kind);
    const bool to_width = kind == MatrixKind::down || kind == MatrixKind::o;
    most.inner = std::max(most.inner, to_width ? in : out);
    most.lora = std::max(most.lora, std::min(out, in));
  }
  check_ranks(given, o, most);
}

constexpr const char* program = "sparsegrad-llm";

int run(int argc, char** argv, Processes& processes) {
  CLI::App app(
      "Fine-tunes language models of the LLaMA family on questions and answers, densely, with LoRA or with "
      "SparseGrad's sparse gradients, from a GGUF file or a folder.",
      "sparsegrad-llm");
  app.set_version_flag("--version", SPARSEGRAD_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.footer(footer);

  TrainOptions train = default_options();
  train.quiet = !processes.is_first();
  train.processes = processes.size();
  CLI::App* train_app = app.add_subcommand("train", "fine-tune a model; writes run.json and the best model");
  add_model(*train_app, train);
  add_data(*train_app, train);
  add_choice_of_matrices(*train_app, train);
  add_llm_train_options(*train_app, train);

  LlmEvaluateCommand evaluate;
  evaluate.common = default_options();
  CLI::App* evaluate_app =
      app.add_subcommand("evaluate", "print a model's loss and perplexity on the answers of a file");
  add_model(*evaluate_app, evaluate.common);
  add_base(*evaluate_app, *evaluate.common.causal);
  add_change(*evaluate_app, *evaluate.common.causal);
  add_data(*evaluate_app, evaluate.common);
  evaluate_app->get_option("--dev-limit")->description("evaluate on the first N examples alone (0: all)");
  evaluate_app->add_option("--batch-size", evaluate.common.batch_size, "most examples of a batch")
      ->capture_default_str()
      ->group("Machine");
  evaluate_app
      ->add_option(
          "--exact-match", evaluate.exact_match,
          "answer the first N questions, greedily, and count the answers whose last number is right (0: "
          "none)")
      ->capture_default_str()
      ->group("Output");
  evaluate_app
      ->add_option("--choices", evaluate.choices,
                   "of records of multiple choice, compare the likelihoods of the choices of the first N "
                   "questions (0: none)")
      ->capture_default_str()
      ->group("Output");
  evaluate_app
      ->add_option("--max-new-tokens", evaluate.max_new_tokens, "most tokens of an answer that is generated")
      ->capture_default_str()
      ->group("Output");

  GenerateCommand generate;
  generate.common = default_options();
  CLI::App* generate_app = app.add_subcommand("generate", "answer a prompt, word by word");
  add_model(*generate_app, generate.common);
  add_base(*generate_app, *generate.common.causal);
  add_change(*generate_app, *generate.common.causal);
  add_chat(*generate_app, *generate.common.causal);
  generate_app->add_option("--prompt", generate.prompt, "the question (default: each line of standard input)")
      ->group("Input");
  generate_app->add_option("--system", generate.system, "the system message before it")->group("Input");
  generate_app->add_flag("--raw", generate.raw, "continue the prompt as it is, without a chat template")
      ->group("Input");
  generate_app->add_option("--max-new-tokens", generate.max_new_tokens, "most tokens of the answer")
      ->capture_default_str()
      ->group("Output");
  generate_app
      ->add_option("--temperature", generate.sampling.temperature, "of the draws (0: the likeliest token)")
      ->capture_default_str()
      ->group("Output");
  generate_app
      ->add_option("--top-p", generate.sampling.top_p,
                   "draw among the likeliest tokens that have this probability together")
      ->capture_default_str()
      ->group("Output");
  generate_app->add_option("--seed", generate.sampling.seed, "of the draws")
      ->capture_default_str()
      ->group("Output");

  ExportCommand exported;
  exported.common = default_options();
  CLI::App* export_app = app.add_subcommand("export", "write a model for other programs");
  add_model_alone(*export_app, exported.common);
  export_app->add_flag("--quiet", exported.common.quiet, "print nothing but errors")->group("Machine");
  add_change(*export_app, *exported.common.causal);
  export_app
      ->add_option("--output", exported.common.output,
                   "folder to write; of gguf, gguf-lora and delta the file")
      ->required()
      ->group("Output");
  export_app
      ->add_option(
          "--format", exported.format,
          "merged: a folder in Hugging Face form, which transformers reads; gguf: a file for llama.cpp; of a "
          "run's model OUT/model, what it changed, delta: a file that --adapter puts on the run's base, of "
          "any "
          "run; as a LoRA, peft: a folder that the Python package peft loads; gguf-lora: a file for "
          "llama.cpp's "
          "--lora")
      ->capture_default_str()
      ->group("Output");
  export_app
      ->add_option(
          "--base-model", exported.base,
          "of an adapter or a delta: the model that the run began from (default: the one that the run's "
          "log names)")
      ->group("Input");
  export_app
      ->add_option("--save-dtype", exported.save_dtype,
                   "of the weights: bf16, float or fp16; of gguf q8_0 too")
      ->capture_default_str()
      ->group("Output");

  TrainOptions inspected = default_options();
  CLI::App* inspect_app =
      app.add_subcommand("inspect",
                         "show a model's extents, template and matrices, look through its "
                         "weights, and show the memory that a run with these options would "
                         "take; the other options of train are taken, and change nothing");
  add_model(*inspect_app, inspected);
  add_data(*inspect_app, inspected);
  add_choice_of_matrices(*inspect_app, inspected);
  add_llm_train_options(*inspect_app, inspected);
  show_options_of_inspect(*inspect_app);

  for (CLI::App* command : {train_app, evaluate_app, generate_app, export_app, inspect_app}) {
    check_numbers(*command);
    command->footer(footer);
  }
  std::string trouble = no_command(app, argc, argv);
  if (trouble.empty()) trouble = empty_value(argc, argv);
  if (!trouble.empty()) {
    tell_error(processes, program, trouble);
    return 2;
  }
  std::set<std::string> given;
  try {
    app.parse(parser_words(argc, argv));
    if (train_app->parsed()) apply_llm_presets(*train_app, train, given);
    if (inspect_app->parsed()) {
      apply_llm_presets(*inspect_app, inspected, given);
      inspected.apply_run_type();
    }
  } catch (const CLI::ParseError& error) {
    return tell_parsed(processes, program, app, error);
  } catch (const std::exception& error) {
    tell_error(processes, program, error.what());
    return 2;
  }
  try {
    if (train_app->parsed()) {
      const std::optional<DecoderConfig> config = config_of(train);
      fit_length(given, config, train);
      check_ranks_of_decoder(given, config, train);
      std::vector<OptionEffect> effects = option_effects(train);
      effects.push_back({{"--held-out", "--split-seed"},
                         train.causal->validation.empty(),
                         "--validation",
                         "no file of its own to evaluate on"});
      effects.push_back({{"--recompute"},
                         train.run_type != RunType::frozen_mlp || train.trained == TrainedParameters::all,
                         "--run-type frozen",
                         "something to train"});
      if (processes.is_first()) {
        tell_effects(given, effects);
        tell_threads(train);
      }
      train.apply_run_type();
      return run_llm_train(train, processes);
    }
    processes.require_one(app.get_subcommands().front()->get_name());
    if (evaluate_app->parsed()) {
      tell_effects(given_options(*evaluate_app),
                   {{{"--max-new-tokens"}, evaluate.exact_match > 0, "--exact-match 0", "--exact-match N"}});
      tell_threads(evaluate.common);
      fit_length(given_options(*evaluate_app), config_of(evaluate.common), evaluate.common);
      return run_llm_evaluate(evaluate);
    }
    if (generate_app->parsed()) {
      tell_effects(
          given_options(*generate_app),
          {{{"--system", "--chat-template", "--chat-date"}, !generate.raw, "--raw", "a chat template"},
           {{"--top-p", "--seed"},
            generate.sampling.temperature != 0,
            "--temperature 0",
            "--temperature above 0"}});
      tell_threads(generate.common);
      return run_generate(generate);
    }
    if (export_app->parsed()) return run_export(exported);
    const std::optional<DecoderConfig> config = config_of(inspected);
    fit_length(given, config, inspected);
    check_ranks_of_decoder(given, config, inspected);
    tell_threads(inspected);
    return run_llm_inspect(inspected);
  } catch (const std::bad_alloc&) {
    std::string cure = "--base file keeps what is not trained in its file";
    if (train_app->parsed() || evaluate_app->parsed())
      cure +=
          "; a smaller --max-length, or a smaller --batch-size (of train with more --accumulation) needs "
          "less";
    if (export_app->parsed()) cure = "export has the whole model in float";
    tell_error(processes, program, "not enough memory; " + cure);
    return 1;
  } catch (const std::exception& error) {
    tell_error(processes, program, error.what());
    return 1;
  }
}

}  // namespace

int run_llm_program(int argc, char** argv) {
  return run_in_processes(program, [&](Processes& processes) { return run(argc, argv, processes); });
}

}  // namespace sparsegrad::finetune
