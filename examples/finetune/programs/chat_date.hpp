// --chat-date, where the model's chat template takes no date.
#pragma once

#include "training/causal_source.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// Warns on standard error of a date that the chat template does not write. Throws ValueError where there is no template.
void tell_unused_chat_date(const CausalSource& source, const CausalOptions& options);

}  // namespace sparsegrad::finetune
