// Options that were given and change nothing: other options, or the model, leave them no place.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "models/encoder/model_config.hpp"
#include "programs/commands.hpp"

namespace sparsegrad::finetune {

/// A row of a command's table: options that have an effect only where others do.
struct OptionEffect {
  std::vector<std::string_view> options;  ///< "--lora-rank", "--lora-scale"
  bool effective = true;
  std::string found;   ///< what leaves them without effect: "--run-type ft"
  std::string needed;  ///< what they need: "--run-type lora"
  /// Whether the command line is refused, and not only told of: where one list of options that serves several run types
  /// and devices would not have them either.
  bool refused = false;
};

std::vector<OptionEffect> option_effects(const TrainOptions& options);
std::vector<OptionEffect> option_effects(const EvaluateCommand& command);
std::vector<OptionEffect> option_effects(const InspectCommand& command);

/// A warning for each option of `given` ("--lora-rank") without effect. Throws ValueError where it is to be refused.
std::vector<std::string> check_effects(const std::set<std::string>& given,
                                       const std::vector<OptionEffect>& effects);

/// Throws ValueError where a side of `given` has a rank above the extent of that side, of which all would be taken.
void check_ranks(const std::set<std::string>& given, const SideOptions& sides, const ModelConfig& model);

}  // namespace sparsegrad::finetune
