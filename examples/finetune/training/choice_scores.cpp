#include "training/choice_scores_impl.hpp"

#include <cmath>

#include "models/host_backend.hpp"

namespace sparsegrad::finetune {

namespace {

std::size_t best_of(std::span<const ChoiceScore> scores, bool per_token) {
  const auto value = [&](const ChoiceScore& score) {
    return per_token ? score.per_token() : score.log_likelihood;
  };
  const auto best =
      std::max_element(scores.begin(), scores.end(),
                       [&](const ChoiceScore& a, const ChoiceScore& b) { return value(a) < value(b); });
  return static_cast<std::size_t>(best - scores.begin());
}

}  // namespace

void ChoiceAccuracy::add(std::span<const ChoiceScore> scores, std::size_t right_choice) {
  ++questions;
  right += best_of(scores, false) == right_choice ? 1 : 0;
  right_per_token += best_of(scores, true) == right_choice ? 1 : 0;
}

double ChoiceAccuracy::share(index_t count) const {
  return questions > 0 ? static_cast<double>(count) / static_cast<double>(questions) : 0;
}

double ChoiceAccuracy::standard_error(index_t count) const {
  if (questions < 2) return 0;
  const double p = share(count);
  return std::sqrt(p * (1 - p) / static_cast<double>(questions - 1));
}

template std::vector<ChoiceScore> score_choices(HostBackend::Context&, DecoderModel<float, HostBackend>&,
                                                const CausalDataset&);
template std::vector<ChoiceScore> score_choices(HostBackend::Context&, DecoderModel<bfloat16, HostBackend>&,
                                                const CausalDataset&);

}  // namespace sparsegrad::finetune
