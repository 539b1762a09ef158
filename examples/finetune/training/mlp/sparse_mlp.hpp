#pragma once

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/extras/bucket_reduce.hpp>
#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "replication/reference_defects.hpp"
#include "training/mlp/mlp_optimizer.hpp"
#include "training/mlp/sparse_setup.hpp"
#include "training/mlp/update_state.hpp"

namespace sparsegrad::finetune {

/// SparseAdam on the largest entries of the gradients in their bases: run type sparse; without bases: run type topk. Bases
/// come from phase 1, which is the trainer's, and from refreshes.
template <class T, class Backend>
class SparseMlp final : public MlpOptimizer<T, Backend> {
 public:
  using Context = typename Backend::Context;
  using Target = MlpTarget<T, Backend>;
  using Group = SparseGradGroup<T, Backend>;

  /// `shared`: one gradient memory serves all matrices. `workload` is what the cost model assumes of a step.
  SparseMlp(Context& ctx, const std::vector<Target>& targets, const SparseOptions& options,
            double weight_decay, const Workload& workload, bool shared)
      : options_(options), weight_decay_(weight_decay), shared_(shared), group_(group_options(targets)) {
    const index_t matrix = targets.front().parameter->size();
    if (options_.defects.signed_selection)
      group_.use_selector(SignedThreshold<Backend>{kept_entries(options_, matrix)});
    for (const Target& target : targets) {
      target.layer->set_plan(ctx, parse_plan(options_.plan), workload);
      add(ctx, target);
      sparse_parameters_ += target.parameter->size();
      const SideRecipes sides = options_.sides.rules(target.kind);
      largest_cores_.push_back(largest_rank(sides.out, target.parameter->rows()) *
                               largest_rank(sides.in, target.parameter->cols()));
    }
  }

  Group& group() { return group_; }
  const Group& group() const { return group_; }

  /// One gradient memory for all matrices until `end_sharing`; nothing where they share one anyway.
  void share_memory(Context& ctx) {
    if (!shared_) set_memory(ctx, std::make_shared<GradientMemory<float, Backend>>());
  }
  void end_sharing(Context& ctx) {
    if (!shared_) set_memory(ctx, nullptr);
  }

  /// Until `end_summing` each process collects gradients of its own, and `fit` sums what they came to over all. For
  /// collections alone: no other gradient is summed here.
  void sum_collections(Communicator& processes) {
    group_.use_reduce(std::make_shared<BucketReducer<float, Backend>>(
        processes, ReduceOptions{.collected = Collected::sums}));
  }
  void end_summing() { group_.use_reduce(nullptr); }

  /// Phase 1: all gradients up to `fit` go to the sums that bases are fitted to, or to nothing after `stop_collecting`.
  /// `end_collecting_step` ends a step that is not this optimizer's, for one matrix and then for all.
  void start_collecting(Context& ctx) { group_.collect(ctx, make_recipe(options_)); }
  void stop_collecting(Context& ctx) { group_.stop_collecting(ctx); }
  void end_collecting_step(Context& ctx, index_t number) { group_.end_collecting_step(ctx, number); }
  void end_collecting_step(Context& ctx) { group_.end_collecting_step(ctx); }
  void fit(Context& ctx) {
    group_.refresh(ctx);
    if (options_.defects.transposed_basis) transpose_input_sides<T, Backend>(ctx, group_);
  }

  MatrixView<const float> gradient(Context& ctx, index_t number) override {
    return group_.finish(ctx, number);
  }
  void finish_together(Context& ctx) override { group_.finish_together(ctx); }
  void clear(Context& ctx) override { group_.clear(ctx); }

  std::function<void(index_t)> on_gradient(Context& ctx) override {
    if (!shared_) return {};
    return [this, &ctx](index_t number) { group_.select(ctx, number); };
  }
  void before_step(Context& ctx, index_t done, index_t planned) override {
    // A refresh after step n is fitted to the gradients of the steps up to n.
    if (options_.refresh_every == 0 || group_.collecting()) return;
    const index_t ahead = options_.refresh_every - done % options_.refresh_every;  // to the next one
    if (ahead <= options_.refresh_window && refresh_due(done + ahead, planned)) start_collecting(ctx);
  }
  index_t step(Context& ctx, double rate, double scale) override {
    return group_.step(ctx, {.learning_rate = rate, .weight_decay = weight_decay_, .grad_scale = scale}).kept;
  }
  void check(Context& ctx, bool waits) override {
    if constexpr (BatchedBackend<Backend>) {
      if (waits || ctx.step_flag().raised()) group_.check(ctx);
    }
  }
  bool refresh(Context& ctx, index_t done, index_t planned) override {
    if (!refresh_due(done, planned)) return false;
    group_.refresh(ctx, options_.moments);
    return true;
  }
  bool collecting() const override { return group_.collecting(); }

  index_t sparse_parameters() const override { return sparse_parameters_; }
  index_t entries_a_step() const override {
    index_t sum = 0;
    for (index_t i = 0; i < group_.size(); ++i)
      sum += std::min(group_.kept(i), largest_cores_[static_cast<std::size_t>(i)]);
    return sum;
  }
  void add_memory(Context& ctx, index_t, MemoryParts& parts) const override {
    const GroupMemory group = group_.memory(ctx);
    parts.gradients += group.gradients + group.sparse_gradients;
    if (phase1_memory_ != nullptr) parts.gradients += phase1_memory_->bytes();
    parts.optimizer += group.optimizer + group.selectors;
    parts.basis = group.bases;
    parts.collection = group.collection;
  }

  void add_state(Context& ctx, Hash& hash) override {
    for (const auto& layer : group_.state(ctx).layers) {
      const OptimizerState<float>& state = layer.optimizer;
      hash.add_value(state.steps);
      hash.add(state.index.data(), state.index.size() * sizeof(stored_index_t));
      for (const auto& array : state.arrays)
        hash.add(array.values.data(), array.values.size() * sizeof(float));
      hash.add(state.count.data(), state.count.size() * sizeof(std::int32_t));
    }
    detail::add_updates<Backend>(ctx, hash, updates_);
  }
  std::uint64_t hash_of_bases(Context& ctx, std::uint64_t hash) override {
    for (index_t i = 0; i < group_.size(); ++i) {
      for (const auto* side : {&group_.basis(i)->out(), &group_.basis(i)->in()}) {
        if (!side->has_factor()) continue;
        const MatrixView<const float> factor = side->factor();
        const auto n = static_cast<std::size_t>(factor.size());
        visit_on_host<Backend>(ctx, factor.data, n, [&](const float* values) {
          for (std::size_t e = 0; e < n; ++e)
            hash = mix_bits(hash ^ std::bit_cast<std::uint32_t>(values[e]));
        });
      }
    }
    return hash;
  }
  void save(Context& ctx, io::SafetensorsWriter& writer, nlohmann::json&) override {
    io::put(ctx, writer, file_prefix, group_);
    detail::put_updates<Backend>(ctx, writer, updates_, present_bases());
  }
  void check_written(Context& ctx, const io::SafetensorsFile& file) override {
    const auto written = io::get_group_state<float, Backend>(ctx, file, file_prefix);
    const auto wanted = group_.state(ctx);
    for (std::size_t i = 0; i < wanted.layers.size(); ++i) {
      if (i >= written.layers.size() || !(written.layers[i].optimizer == wanted.layers[i].optimizer))
        throw IoError(
            fmt::format("{}: the optimizer of MLP matrix {} is not what was written to it", file.path(), i));
    }
    detail::require_same_updates<Backend>(ctx, file, updates_);
  }
  void restore(Context& ctx, const io::SafetensorsFile& file, const nlohmann::json&) override {
    io::get(ctx, file, file_prefix, group_);
    detail::get_updates<Backend>(ctx, file, updates_, present_bases());
  }

 private:
  static constexpr const char* file_prefix = "sparse.";

  void add(Context& ctx, const Target& target) {
    layers_.push_back(target.layer);
    updates_.push_back(target.update);
    if (target.update == nullptr) {
      group_.add(ctx, *target.layer, target.kind);
      return;
    }
    group_.add(ctx, *target.layer, target.kind,
               [update = target.update](Context& c, const auto& basis, const auto& d, double decay) {
                 update->add(c, basis, d, decay);
               });
  }
  detail::BasisOf<Backend> present_bases() const {
    return [this](std::size_t i) { return group_.basis(static_cast<index_t>(i)); };
  }
  void set_memory(Context& ctx, std::shared_ptr<GradientMemory<float, Backend>> memory) {
    for (auto* layer : layers_)
      layer->gradient().share_memory(ctx, memory);
    phase1_memory_ = std::move(memory);
  }

  typename Group::Options group_options(const std::vector<Target>& targets) const {
    const index_t matrix = targets.front().parameter->size();
    typename Group::Options options;
    const bool alike = std::all_of(targets.begin(), targets.end(),
                                   [&](const Target& target) { return target.parameter->size() == matrix; });
    if (alike)
      options.entries = kept_entries(options_, matrix);
    else
      options.density = options_.share_kept();
    // Of gradients that are as often negative as positive the signed threshold keeps twice as many.
    if (options_.defects.signed_selection) options.entries = std::min(3 * options.entries, matrix);
    options.capacity_factor = options_.state_capacity;
    options.optimizer.semantics = options_.adam;
    options.optimizer.overflow = options_.overflow;
    options.share_gradient_memory = shared_;
    return options;
  }
  bool refresh_due(index_t at, index_t planned) const {
    const index_t every = options_.refresh_every;
    return every > 0 && options_.needs_gradients() && at % every == 0 && at > 0 && at < planned;
  }

  SparseOptions options_;
  double weight_decay_;
  bool shared_;
  std::vector<SparseGradLinear<T, Backend>*> layers_;
  std::vector<AccumulatedUpdate<float, Backend>*> updates_;  ///< as MlpTarget's
  std::shared_ptr<GradientMemory<float, Backend>> phase1_memory_;
  index_t sparse_parameters_ = 0;
  std::vector<index_t> largest_cores_;  ///< entries at most, which is known before the bases are
  Group group_;
};

}  // namespace sparsegrad::finetune
