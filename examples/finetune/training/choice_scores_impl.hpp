// Definition of score_choices, for the files that instantiate it.
#pragma once

#include <algorithm>
#include <deque>

#include <fmt/format.h>
#include <sparsegrad/core/float_bits.hpp>

#include "training/choice_scores.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Rows that all examples have in common, none of which predicts anything.
inline std::size_t common_rows(const CausalDataset& answers) {
  std::size_t rows = answers.ids(0).size();
  for (index_t i = 0; i < answers.size(); ++i) {
    const auto ids = answers.ids(i);
    const auto targets = answers.targets(i);
    std::size_t same = 0;
    while (same < std::min(rows, ids.size()) && ids[same] == answers.ids(0)[same] && targets[same] < 0)
      ++same;
    rows = same;
  }
  return rows;
}

}  // namespace detail

template <class T, class Backend>
std::vector<ChoiceScore> score_choices(typename Backend::Context& ctx, DecoderModel<T, Backend>& model,
                                       const CausalDataset& answers) {
  using Cache = KeyValueCache<T, Backend>;
  std::vector<ChoiceScore> scores;
  if (answers.size() == 0) return scores;
  const std::size_t common = detail::common_rows(answers);
  std::deque<Cache> caches;
  std::vector<Cache*> pointers;
  Batch batch;
  for (index_t i = 0; i < answers.size(); ++i) {
    caches.emplace_back(ctx, model.config(), answers.longest());
    pointers.push_back(&caches.back());
    if (i == 0 && common > 0) model.decode(ctx, caches[0], answers.ids(0).first(common));
    if (i > 0) caches.back().copy_from(ctx, caches[0]);
    batch.add_sequence(answers.ids(i).subspan(common), answers.targets(i).subspan(common));
  }
  const std::span<const double> losses = model.token_losses_after(ctx, pointers, batch);
  std::size_t at = 0;
  for (index_t i = 0; i < answers.size(); ++i) {
    ChoiceScore score;
    score.tokens = answers.counted(i);
    for (index_t t = 0; t < score.tokens; ++t)
      score.log_likelihood -= losses[at++];
    if (!sparsegrad::is_finite(score.log_likelihood)) {
      throw ModelError(fmt::format("{}: the model's loss of a choice is {}, expected a finite number",
                                   answers.name(), -score.log_likelihood));
    }
    scores.push_back(score);
  }
  return scores;
}

}  // namespace sparsegrad::finetune
