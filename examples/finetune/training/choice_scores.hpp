// Multiple choice by likelihood.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "data/causal_dataset.hpp"
#include "models/decoder/decoder_model.hpp"

namespace sparsegrad::finetune {

/// How likely a model holds an answer to be.
struct ChoiceScore {
  double log_likelihood = 0;  ///< the sum over the answer's tokens, the one that ends it included
  index_t tokens = 0;
  double per_token() const { return log_likelihood / static_cast<double>(tokens); }
};

/// Of each of a question's answers, `answers` being the question with each of them. What all have in common before the
/// first token that is predicted is computed once (KeyValueCache), the rest in one batch. Throws ModelError when a loss
/// is NaN or Inf, and as the model.
template <class T, class Backend>
std::vector<ChoiceScore> score_choices(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                                       const CausalDataset& answers);

/// How often the likeliest choice was the right one.
struct ChoiceAccuracy {
  index_t questions = 0;
  index_t right = 0;            ///< by the log likelihood of the whole answer
  index_t right_per_token = 0;  ///< by its mean a token, which does not favour short answers

  /// Counts a question. The first of equal scores is taken.
  void add(std::span<const ChoiceScore> scores, std::size_t right_choice);
  /// right / questions, and the standard error of such a share p of n questions: sqrt(p (1 - p) / (n - 1)); 0 for one.
  double share(index_t count) const;
  double standard_error(index_t count) const;
};

}  // namespace sparsegrad::finetune
