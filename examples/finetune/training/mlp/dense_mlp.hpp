#pragma once

#include <memory>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "training/mlp/mlp_optimizer.hpp"
#include "training/optimizer/adamw.hpp"

namespace sparsegrad::finetune {

/// AdamW on every entry of the matrices: run types ft and meprop, and phase 1. One AdamW a matrix, as gradients may be
/// stepped one by one.
template <class T, class Backend>
class DenseMlp final : public MlpOptimizer<T, Backend> {
 public:
  using Context = typename Backend::Context;
  using Target = MlpTarget<T, Backend>;

  DenseMlp(Context& ctx, const std::vector<Target>& targets, double weight_decay) : targets_(targets) {
    for (const Target& target : targets_) {
      const Parameter<T>& p = *target.parameter;
      adam_.push_back(std::make_unique<AdamW<T, Backend>>(
          ctx, std::vector<typename AdamW<T, Backend>::Segment>{
                   {p.name, p.weight.data, nullptr, p.weight.size(), weight_decay, p.rounded.data}}));
    }
  }

  MatrixView<const float> gradient(Context& ctx, index_t number) override {
    return targets_[static_cast<std::size_t>(number)].layer->core(ctx);
  }
  void clear(Context& ctx) override {
    for (const Target& target : targets_)
      target.layer->clear(ctx);
  }

  index_t step(Context& ctx, double rate, double scale) override {
    for (std::size_t i = 0; i < adam_.size(); ++i)
      step_one(ctx, static_cast<index_t>(i), rate, scale);
    return 0;
  }
  /// The step of one matrix from its finished gradient, which is forgotten.
  void step_one(Context& ctx, index_t number, double rate, double scale) {
    auto& layer = *targets_[static_cast<std::size_t>(number)].layer;
    AdamW<T, Backend>& adam = *adam_[static_cast<std::size_t>(number)];
    adam.set_gradient(0, layer.core(ctx).data);
    adam.step(ctx, {.learning_rate = rate, .grad_scale = scale});
    layer.clear(ctx);
  }

  index_t dense_parameters() const override {
    index_t sum = 0;
    for (const auto& adam : adam_)
      sum += adam->segments().front().count;
    return sum;
  }
  index_t state_bytes() const {
    index_t sum = 0;
    for (const auto& adam : adam_)
      sum += adam->state_bytes();
    return sum;
  }
  void add_memory(Context&, index_t layers, MemoryParts& parts) const override {
    parts.gradients += layers;
    parts.optimizer += state_bytes();
  }

  void add_state(Context& ctx, Hash& hash) override {
    for (const auto& adam : adam_)
      detail::add_adam<T, Backend>(ctx, hash, *adam);
  }
  void save(Context& ctx, io::SafetensorsWriter& writer, nlohmann::json& state) override {
    for (std::size_t i = 0; i < adam_.size(); ++i) {
      detail::put_adam<T, Backend>(ctx, writer, name(i), *adam_[i]);
      state["adam_steps"].push_back(adam_[i]->steps());
    }
  }
  void check_written(Context& ctx, const io::SafetensorsFile& file) override {
    for (std::size_t i = 0; i < adam_.size(); ++i)
      detail::require_same_adam<T, Backend>(ctx, file, name(i), *adam_[i]);
  }
  void restore(Context& ctx, const io::SafetensorsFile& file, const nlohmann::json& state) override {
    for (std::size_t i = 0; i < adam_.size(); ++i)  // the first is the dense parameters' own
      detail::get_adam<T, Backend>(ctx, file, name(i), *adam_[i], state.at("adam_steps").at(i + 1));
  }

 private:
  static std::string name(std::size_t i) { return fmt::format("mlp.{}.", i); }

  std::vector<Target> targets_;
  std::vector<std::unique_ptr<AdamW<T, Backend>>> adam_;
};

}  // namespace sparsegrad::finetune
