// Definition of generate, for the files that instantiate it.
#pragma once

#include <algorithm>

#include <fmt/format.h>

#include "training/generation.hpp"

namespace sparsegrad::finetune {

template <class T, class Backend>
std::vector<std::int32_t> generate(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                                   std::span<const std::int32_t> prompt, const SamplingOptions& options,
                                   const GenerationLimits& limits,
                                   const std::function<void(std::int32_t)>& on_token) {
  const index_t positions = model.config().max_positions;
  const auto asked = static_cast<index_t>(prompt.size());
  if (prompt.empty()) throw ModelError("the prompt is empty, expected at least one token");
  if (asked >= positions) {
    throw ModelError(
        fmt::format("the prompt has {} tokens, which leaves none of the model's {} positions for an answer",
                    asked, positions));
  }
  const index_t most = std::min(limits.max_new_tokens, positions - asked);
  KeyValueCache<T, Backend> cache(ctx, model.config(), asked + most);
  std::vector<std::int32_t> made;
  auto logits = model.decode(ctx, cache, prompt);
  for (index_t step = 0; step < most; ++step) {
    if (limits.cancelled && limits.cancelled()) break;
    if (limits.ids > 0) logits = logits.first(std::min(logits.size(), static_cast<std::size_t>(limits.ids)));
    const std::int32_t token = choose_token(logits, options, static_cast<std::uint64_t>(step));
    if (std::find(limits.end_ids.begin(), limits.end_ids.end(), token) != limits.end_ids.end()) break;
    made.push_back(token);
    if (on_token) on_token(token);
    if (step + 1 < most) logits = model.decode(ctx, cache, std::span(&token, 1));
  }
  return made;
}

}  // namespace sparsegrad::finetune
