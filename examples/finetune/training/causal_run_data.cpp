#include "training/causal_run_data.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "training/state_arrays.hpp"

namespace sparsegrad::finetune {

std::string content_hash(const CausalDataset& data) {
  Hash hash;
  for (index_t i = 0; i < data.size(); ++i)
    hash.add_value(data.length(i));
  hash.add(data.ids().data(), data.ids().size_bytes());
  hash.add(data.targets().data(), data.targets().size_bytes());
  return fmt::format("{:016x}", hash.value());
}

std::vector<Forgetting> forgetting_of(const TrainReport& report, std::span<const std::string> names) {
  std::vector<Forgetting> all;
  if (report.evaluations.empty() || !report.best) return all;
  for (const std::string& name : names) {
    const auto loss = [&](const EvaluationRecord& record) {
      const auto found = std::find_if(record.metrics.begin(), record.metrics.end(),
                                      [&](const Metric& metric) { return metric.name == "loss_" + name; });
      return found == record.metrics.end() ? 0 : found->value;
    };
    all.push_back({name, loss(report.evaluations.front()), loss(report.evaluations[*report.best]),
                   loss(report.evaluations.back())});
  }
  return all;
}

nlohmann::json fingerprint_of(const DecoderConfig& config) {
  const RopeConfig& rope = config.rope;
  return {{"num_attention_heads", config.heads},
          {"num_key_value_heads", config.kv_heads},
          {"head_dim", config.head_size},
          {"rms_norm_eps", config.rms_norm_eps},
          {"rope_theta", rope.base},
          {"rope_scaling",
           {to_string(rope.scaling), rope.factor, rope.low_frequency_factor, rope.high_frequency_factor,
            rope.original_max_positions}}};
}

}  // namespace sparsegrad::finetune
