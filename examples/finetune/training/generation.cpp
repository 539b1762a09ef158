#include "training/generation_impl.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include <fmt/format.h>
#include <sparsegrad/core/float_bits.hpp>

#include "models/host_backend.hpp"
#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

namespace {

constexpr std::uint64_t sampling_stream = 3;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace

void SamplingOptions::check() const {
  if (!sparsegrad::is_finite(temperature) || temperature < 0)
    throw ValueError(fmt::format("--temperature is {}, expected a number from 0 (0: greedy)", temperature));
  if (!(top_p > 0 && top_p <= 1))
    throw ValueError(fmt::format("--top-p is {}, expected a probability above 0 and at most 1", top_p));
}

std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, std::uint64_t step) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (best == logits.end() || !sparsegrad::is_finite(*best))
    throw ModelError(
        "the model's logits have no finite maximum: its weights are damaged, or it has diverged");
  if (options.temperature == 0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<double> weights(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    weights[i] =
        std::exp((static_cast<double>(logits[i]) - static_cast<double>(*best)) / options.temperature);
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto weight = [&](std::int32_t id) { return weights[static_cast<std::size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return weight(a) > weight(b); });
  double kept = 0;
  std::size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.top_p * all))
    kept += weight(order[count++]);
  const double u =
      static_cast<double>(stream_key(stream_key(options.seed, sampling_stream), step) >> 11) * 0x1p-53;
  double sum = 0;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    sum += weight(order[i]);
    if (u * kept < sum) return order[i];
  }
  return order[count - 1];
}

std::string final_number(std::string_view answer) {
  if (const std::size_t mark = answer.rfind("####"); mark != std::string_view::npos)
    answer.remove_prefix(mark + 4);
  std::string number;
  std::string last;
  for (std::size_t i = 0; i <= answer.size(); ++i) {
    const char c = i < answer.size() ? answer[i] : ' ';
    if (is_digit(c)) {
      if (number.empty() && i > 0 && answer[i - 1] == '-') number = "-";
      number += c;
    } else if (c == ',' && !number.empty() && i + 1 < answer.size() && is_digit(answer[i + 1])) {
      continue;
    } else if (c == '.' && !number.empty() && number.find('.') == std::string::npos &&
               i + 1 < answer.size() && is_digit(answer[i + 1])) {
      number += c;
    } else if (!number.empty()) {
      last = number;
      number.clear();
    }
  }
  // 2.50 and 2.5 are one number.
  if (last.find('.') != std::string::npos) {
    while (last.ends_with('0'))
      last.pop_back();
    if (last.ends_with('.')) last.pop_back();
  }
  return last;
}

template std::vector<std::int32_t> generate(HostBackend::Context&, DecoderModel<float, HostBackend>&,
                                            std::span<const std::int32_t>, const SamplingOptions&,
                                            const GenerationLimits&,
                                            const std::function<void(std::int32_t)>&);
template std::vector<std::int32_t> generate(HostBackend::Context&, DecoderModel<bfloat16, HostBackend>&,
                                            std::span<const std::int32_t>, const SamplingOptions&,
                                            const GenerationLimits&,
                                            const std::function<void(std::int32_t)>&);

}  // namespace sparsegrad::finetune
