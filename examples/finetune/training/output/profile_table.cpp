#include "training/output/profile_table.hpp"

#include <array>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace sparsegrad::finetune {

namespace {

constexpr std::array<std::pair<Work, const char*>, StepProfile::kinds> names{
    {{Work::forward, "products: forward"},
     {Work::input_gradient, "products: dX"},
     {Work::weight_gradient, "products: dW or core"},
     {Work::rotation, "products: rotations"},
     {Work::weight_update, "weight update"},
     {Work::attention, "attention"},
     {Work::rope, "RoPE"},
     {Work::norm, "norm, residual, dropout"},
     {Work::activation, "activation"},
     {Work::column_sums, "bias and column sums"},
     {Work::embeddings, "embeddings"},
     {Work::head, "head and loss"},
     {Work::adamw, "AdamW"},
     {Work::selection, "top-k"},
     {Work::sparse_adam, "sparse Adam"},
     {Work::memory, "zeros and copies"}}};

/// Seconds of the steps that no kind has.
double other_seconds(const StepProfile& profile) {
  double seconds = profile.seconds();
  for (const auto& [kind, name] : names)
    seconds -= profile.entry(kind).seconds;
  return seconds;
}

std::string rate(double amount, double seconds) {
  return amount > 0 && seconds > 0 ? fmt::format("{:.0f}", 1e-9 * amount / seconds) : "";
}

}  // namespace

std::string profile_text(const StepProfile& profile) {
  if (profile.steps() == 0) {
    return fmt::format("profile: no step beyond the first {}, which do not count; expected more steps\n",
                       StepProfile::left_out);
  }
  const auto steps = static_cast<double>(profile.steps());
  const MachineRates& rates = profile.rates();
  std::string text = fmt::format(
      "profile: {} steps of {:.0f} tokens, {:.1f} ms a step ({}); this run measured {:.1f} GB/s of memory, "
      "{:.0f} "
      "GFLOP/s of float products{}\n",
      profile.steps(), profile.tokens() / steps, 1e3 * profile.seconds() / steps,
      profile.of_thread() ? "processor time of one thread" : "wall clock", 1e-9 * rates.memory,
      1e-9 * rates.products,
      rates.narrow_products > 0 ? fmt::format(" and {:.0f} of 16-bit ones", 1e-9 * rates.narrow_products)
                                : "");
  text +=
      "| work | ms | share | calls | GFLOP/s | GB/s | limit, ms | over it |\n"
      "|---|--:|--:|--:|--:|--:|--:|--:|\n";
  const auto row = [&](const char* name, double seconds) {
    return fmt::format("| {} | {:.2f} | {:.1f} % |", name, 1e3 * seconds / steps,
                       100 * seconds / profile.seconds());
  };
  for (const auto& [kind, name] : names) {
    const StepProfile::Entry& entry = profile.entry(kind);
    if (entry.calls == 0) continue;
    text += row(name, entry.seconds);
    text += fmt::format(" {:.0f} | {} | {} | {:.2f} | {:.2f} |\n", entry.calls / steps,
                        rate(entry.flops, entry.seconds), rate(entry.bytes, entry.seconds),
                        1e3 * entry.limit / steps, entry.seconds / entry.limit);
  }
  return text + row("other", other_seconds(profile)) + " | | | | |\n";
}

nlohmann::json to_json(const StepProfile& profile) {
  const MachineRates& rates = profile.rates();
  nlohmann::json work = nlohmann::json::object();
  for (const auto& [kind, name] : names) {
    const StepProfile::Entry& entry = profile.entry(kind);
    if (entry.calls == 0) continue;
    work[name] = {{"seconds", entry.seconds},
                  {"limit", entry.limit},
                  {"flops", entry.flops},
                  {"bytes", entry.bytes},
                  {"calls", entry.calls}};
  }
  return {{"steps", profile.steps()},
          {"tokens", profile.tokens()},
          {"seconds", profile.seconds()},
          {"other_seconds", other_seconds(profile)},
          {"clock", profile.of_thread() ? "thread" : "wall"},
          {"memory_rate", rates.memory},
          {"product_rate", rates.products},
          {"narrow_product_rate", rates.narrow_products},
          {"work", work}};
}

}  // namespace sparsegrad::finetune
