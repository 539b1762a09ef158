// Text that a language model writes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/decoder/decoder_model.hpp"

namespace sparsegrad::finetune {

/// How the next token is chosen.
struct SamplingOptions {
  double temperature = 0;  ///< 0: the likeliest token (greedy)
  double top_p = 1;        ///< draws among the likeliest tokens that have this probability together
  std::uint64_t seed = 42;
  /// Throws ValueError naming the option.
  void check() const;
};

/// The next token: the first of the largest logits, or a draw from softmax(logits / temperature), cut to the smallest set
/// of likeliest tokens whose probabilities sum to top_p or more. `step` numbers the draws of a seed. Throws ModelError when
/// no logit is finite.
std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t step);

/// The number that an answer ends with, as GSM8K writes it: behind "####", else the last one; without thousands' commas.
/// Empty where there is none.
std::string final_number(std::string_view answer);

struct GenerationLimits {
  index_t max_new_tokens = 256;
  std::vector<std::int32_t> end_ids;  ///< the first of these ends the text, and is not among its tokens
  index_t ids = 0;  ///< those from here on have no token and are not chosen; 0: all have one
  std::function<bool()> cancelled = {};  ///< asked before each token
};

/// Tokens that follow `prompt`, `on_token` called with each. The text ends at an end token, the limit, or the model's last
/// position. Throws ModelError where the prompt leaves no position.
template <class T, class Backend>
std::vector<std::int32_t> generate(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                                   std::span<const std::int32_t> prompt, const SamplingOptions& options,
                                   const GenerationLimits& limits,
                                   const std::function<void(std::int32_t)>& on_token = {});

}  // namespace sparsegrad::finetune
