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

/// A warning where --threads asks for more threads than may compute at the same time; "" where it does not.
std::string check_threads(const TrainOptions& options, int available);

/// The largest ranks that the trained matrices of a model have room for.
struct RankLimits {
  index_t width = 0;  ///< the model's
  index_t inner = 0;  ///< the matrices' other side
  index_t lora = 0;   ///< the lesser of a matrix's two sides
};
RankLimits rank_limits(const ModelConfig& model);

/// Throws ValueError where an option of `given` has a rank above its limit, of which no more than that would be taken.
void check_ranks(const std::set<std::string>& given, const TrainOptions& options, const RankLimits& most);

}  // namespace sparsegrad::finetune
