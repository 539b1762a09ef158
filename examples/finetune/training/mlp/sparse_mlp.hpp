#pragma once

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/io/state_file.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "replication/reference_defects.hpp"
#include "training/mlp/mlp_optimizer.hpp"
#include "training/mlp/sparse_setup.hpp"

namespace sparsegrad::glue {

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
    const index_t matrix = targets.front().parameter->weight.size();
    if (options_.defects.signed_selection)
      group_.use_selector(SignedThreshold<Backend>{kept_entries(options_, matrix)});
    for (const Target& target : targets) {
      target.layer->set_plan(ctx, parse_plan(options_.plan), workload);
      group_.add(ctx, *target.layer, target.kind);
      sparse_parameters_ += target.parameter->weight.size();
    }
  }

  Group& group() { return group_; }
  const Group& group() const { return group_; }
  bool shares_gradient_memory() const { return shared_; }

  /// Phase 1: all gradients up to `fit` go to the sums that bases are fitted to, or to nothing after `stop_collecting`.
  void start_collecting(Context& ctx) { group_.collect(ctx, make_recipe(options_)); }
  void stop_collecting(Context& ctx) { group_.stop_collecting(ctx); }
  void fit(Context& ctx) {
    group_.refresh(ctx);
    if (options_.defects.transposed_basis) transpose_input_sides<T, Backend>(ctx, group_);
  }

  std::function<void(index_t)> on_gradient(Context& ctx) override {
    if (!shared_) return {};
    return [this, &ctx](index_t number) { group_.select(ctx, number); };
  }
  void before_step(Context& ctx, index_t done, index_t planned) override {
    // A refresh after step n is fitted to the gradients of the steps up to n.
    for (index_t ahead = 1; ahead <= options_.refresh_window; ++ahead) {
      if (!group_.collecting() && refresh_due(done + ahead, planned)) start_collecting(ctx);
    }
  }
  index_t step(Context& ctx, double rate, double scale) override {
    const auto report =
        group_.step(ctx, {.learning_rate = rate, .weight_decay = weight_decay_, .grad_scale = scale});
    group_.check(ctx);  // on a GPU the step itself does not wait to learn of NaN
    return report.kept;
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
      sum += group_.kept(i);
    return sum;
  }
  void add_memory(index_t, MemoryParts& parts) const override {
    const GroupMemory group = group_.memory();
    parts.gradients += group.gradients + group.sparse_gradients + group.deltas;
    parts.optimizer += group.optimizer;
    parts.basis = group.bases;
    parts.collection = group.collection;
  }

  void add_state(Context& ctx, Hash& hash) override {
    for (index_t i = 0; i < group_.size(); ++i) {
      group_.optimizer(i).visit_state([&](std::string_view name, const auto& view) {
        if (name == "step") return hash.add(view.data(), view.size_bytes());
        detail::add_array<Backend>(ctx, hash, view.data(), view.size());
      });
    }
  }
  std::uint64_t hash_of_bases(Context& ctx, std::uint64_t hash) override {
    for (index_t i = 0; i < group_.size(); ++i) {
      for (const auto* side : {&group_.layer(i).basis()->out(), &group_.layer(i).basis()->in()}) {
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
  void save(Context& ctx, io::SafetensorsWriter& writer, nlohmann::json& state) override {
    std::vector<const void*> bases;
    for (index_t i = 0; i < group_.size(); ++i) {
      const auto& basis = group_.layer(i).basis();
      auto at = std::find(bases.begin(), bases.end(), basis.get());
      if (at == bases.end()) {
        io::put<float, Backend>(ctx, writer, fmt::format("basis.{}.", bases.size()), *basis);
        at = bases.insert(bases.end(), basis.get());
      }
      state["basis_of"].push_back(at - bases.begin());
      io::put<float, Backend>(ctx, writer, fmt::format("adam.{}.", i), group_.optimizer(i));
    }
  }
  void check_written(Context& ctx, const io::SafetensorsFile& file) override {
    for (index_t i = 0; i < group_.size(); ++i) {
      group_.optimizer(i).visit_state([&](std::string_view name, const auto& view) {
        if (name == "step") return;
        detail::require_same<Backend>(ctx, file, fmt::format("adam.{}.{}", i, name), view.data(),
                                      view.size());
      });
    }
  }
  void restore(Context& ctx, const io::SafetensorsFile& file, const nlohmann::json& state) override {
    std::vector<std::shared_ptr<const TuckerBasis<float, Backend>>> bases;
    for (index_t i = 0; i < group_.size(); ++i) {
      const std::size_t number = state.at("basis_of").at(static_cast<std::size_t>(i));
      if (number > bases.size())
        throw IoError(fmt::format("basis {} stands before basis {}", number, bases.size()));
      if (number == bases.size())
        bases.push_back(io::get_basis<float, Backend>(ctx, file, fmt::format("basis.{}.", number)));
      group_.set_basis(ctx, i, bases[number]);
      io::get<float, Backend>(ctx, file, fmt::format("adam.{}.", i), group_.optimizer(i));
    }
  }

 private:
  GroupOptions group_options(const std::vector<Target>& targets) const {
    const index_t matrix = targets.front().parameter->weight.size();
    GroupOptions options;
    options.entries = kept_entries(options_, matrix);
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
  index_t sparse_parameters_ = 0;
  Group group_;
};

}  // namespace sparsegrad::glue
