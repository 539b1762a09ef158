// What options say that sparsegrad-llm shares with sparsegrad-glue, and does not share all of.
#pragma once

#include <CLI/CLI.hpp>

namespace sparsegrad::finetune {

/// Of the options of training: texts that speak of language models.
void describe_for_language_models(CLI::App& app);

/// Leaves in the help of inspect the options that change what it shows. The others of train are taken all the same, so that
/// a command line of train is one of inspect.
void show_options_of_inspect(CLI::App& app);

}  // namespace sparsegrad::finetune
