// Options that the programs have in common, and how a command line is read.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "programs/option_effects.hpp"
#include "replication/presets.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// What a command's help ends with.
inline constexpr const char* footer =
    "Exit status: 0 done; 1 an error, told on stderr; 2 a command line that is not understood; 130 "
    "interrupted (Ctrl-C,\n"
    "SIGTERM, SIGHUP); of train: the step was finished, the log and, without --no-save, a checkpoint were "
    "written.";

/// An option whose values are names.
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

/// The names of types of numbers that options have.
std::map<std::string, NumberType> number_types();

/// Of the machine and of the output on the terminal. `gpu`: those of a GPU too.
void add_machine_options(CLI::App& app, TrainOptions& o, bool gpu);

/// Of the steps and of phase 1: of what trains, and of what looks at gradients.
void add_training_options(CLI::App& app, TrainOptions& o);

/// All others of training, but the run type and what else the kinds of models do not share.
void add_train_options(CLI::App& app, TrainOptions& o);

/// Gives the option a value unless it has one.
void set_unless_given(CLI::App& app, const std::string& name, const std::string& value);

/// Puts in what a JSON file of options says and the command line does not. Throws ValueError.
void apply_options_file(CLI::App& app, const std::filesystem::path& path);

/// What --preset knows, for its help.
std::string preset_text(std::span<const Preset> presets = all_presets());
/// Puts in what a preset says and the command line does not. Throws ValueError for a name that is none.
void apply_preset(CLI::App& app, const std::string& name, std::span<const Preset> presets = all_presets());

/// Refuses, or tells of, options that were given and change nothing.
void tell_effects(const std::set<std::string>& given, const std::vector<OptionEffect>& effects);

/// Tells of more threads than may compute at the same time.
void tell_threads(const TrainOptions& options);

/// The options that have a value, by their names ("--learning-rate").
std::set<std::string> given_options(const CLI::App& app);

/// The words of a command line as the parser takes them, the last first; names may be spelt with underscores.
std::vector<std::string> parser_words(int argc, const char* const* argv);

}  // namespace sparsegrad::finetune
