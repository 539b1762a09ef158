// How a StepProfile is shown.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "models/layers/step_profile.hpp"

namespace sparsegrad::finetune {

/// A Markdown table of the kinds of work: milliseconds and calls a step, share, rates, limit and how many times over it the
/// time is; what no row has, as "other". A sentence where no step counted.
std::string profile_text(const StepProfile& profile);

/// The same numbers for the run's log.
nlohmann::json to_json(const StepProfile& profile);

}  // namespace sparsegrad::finetune
