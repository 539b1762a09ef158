// GroupMember: one matrix of a group, from its gradient to its selection.
#pragma once

#include <algorithm>
#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "core_optimizer.hpp"
#include "core_source.hpp"
#include "default_cost_model.hpp"
#include "given_gradient.hpp"
#include "gradient_reducer.hpp"
#include "gradient_remainder.hpp"
#include "micro_batch_sum.hpp"
#include "selector.hpp"
#include "top_k.hpp"
#include "trained_weight.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// A layer that joins a group: SparseGradLinear, or a type with the same two members. What they
/// return must live where it is as long as the layer is in the group.
template <class L, class T, class B>
concept GroupLayer = Backend<B> && requires(L& layer) {
  { layer.gradient() } -> std::convertible_to<CoreSource<compute_t<T>, B>&>;
  { layer.trained_weight() } -> std::same_as<const TrainedWeight<T>&>;
};

/// How a weight of add_weight and its gradient are stored.
template <class C>
struct WeightOptions {
  /// How the weight is stored.
  WeightLayout layout = WeightLayout::out_in;
  /// dW in C, of the weight's shape and layout, that stands in every step: memory which the engine
  /// writes anew each time. Empty: set_gradient gives one in each step.
  MatrixView<const std::type_identity_t<C>> gradient = {};
  std::optional<CostModel> cost_model = {};  ///< picks the order of the weight's update
  /// As LinearOptions::rotations.
  std::optional<RotationPrecision> rotations = {};
};

/// Takes the updates of a weight that is kept elsewhere: W <- (1 - decay) W + V D U^T, D carrying
/// -lr. Called in a step when all of it has been checked; what it throws leaves the layers before it
/// stepped.
template <class C, Backend B>
using ApplyUpdate =
    std::function<void(typename B::Context&, const std::shared_ptr<const TuckerBasis<C, B>>& basis,
                       const SparseGradient<C, B>& d, double decay)>;

/// What a group's members have in common in a step.
template <class C, Backend B>
struct MemberRules {
  /// What becomes of NaN and Inf in a gradient.
  NonFinite non_finite = NonFinite::raise;
  std::shared_ptr<GradientReducer<C, B>> reducer;  ///< sums over processes; null: none
  AnySelector<C, B> selector;                      ///< for members without one of their own; empty: TopK
  bool clears_selected = false;                    ///< gradient memory is free once the entries are selected

  /// Whether each process collects gradients of its own, and the sums are summed at the end.
  bool sums_collections() const { return reducer != nullptr && reducer->sums_collections(); }
};

/// One weight matrix of a SparseGradGroup: its gradient's source, the weight, and the state of its
/// step.
template <class T, Backend B, class O>
struct GroupMember {
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// What the group's members have in common.
  using Rules = MemberRules<C, B>;

  /// How far the member is in the present step.
  enum class Progress {
    gathering,  ///< gradients may come; also a member without any
    finished,   ///< the gradient is complete and reduced
    selected,   ///< the sparse gradient is there for `step` to take
    skipped,    ///< NaN or Inf under NonFinite::skip
    collected,  ///< only the accumulator has the gradient
    broken,     ///< the sum over processes threw: nobody knows what is summed
  };

  /// Its place in the group.
  index_t number = 0;
  /// Name of the kind of layer, whose members may share a basis.
  std::string kind;
  /// What makes its core gradient.
  CoreSource<C, B>* source = nullptr;
  std::weak_ptr<const void> life;                ///< that of a layer's source
  std::unique_ptr<GivenGradient<C, B>> given;    ///< the source, of a weight whose engine makes dW itself
  std::unique_ptr<TrainedWeight<T>> own_weight;  ///< the weight, where there is no layer that has it
  const TrainedWeight<T>* weight = nullptr;      ///< the weight that is trained
  ApplyUpdate<C, B> apply;  ///< takes the updates in place of a weight; empty: `weight` does
  /// Chooses the order of the products of the weight's update.
  CostModel cost_model;
  RotationPrecision rotations = RotationPrecision::full;  ///< of the weight's update
  HosvdAccumulator<C, B>* sums = nullptr;                 ///< null unless gradients are collected
  /// The selected entries.
  SparseGradient<C, B> gradient;
  std::shared_ptr<SparseGradient<C, B>> update;  ///< shared by members of the same core
  std::unique_ptr<O> optimizer;                  ///< null until the first collection's end
  AnySelector<C, B> selector;                    ///< empty: the group's
  /// How far it is in the present step.
  Progress progress = Progress::gathering;
  bool reduced = false;      ///< dW was reduced in this step, or handed to the process's own sums
  bool started = false;      ///< the sum over processes has begun
  bool values_sent = false;  ///< that of the chosen entries' values, in place of the core's
  /// Whether the gradient of this step was left out of the sums, for NaN or Inf.
  bool refused = false;
  std::optional<double> squared_norm;  ///< of the gradient, where it was asked for
  MicroBatchSum<C, B> earlier;         ///< of this step's micro-batches before the present one

  /// Becomes the member of a layer: its gradient, weight, and how its products are made.
  template <class L>
  void take(Context& ctx, L& layer) {
    source = &layer.gradient();
    life = source->life();
    weight = &layer.trained_weight();
    rotations = default_rotations<T, B>(ctx);
    if constexpr (requires { layer.rotations(); }) rotations = layer.rotations();
    cost_model = default_cost_model<T, B>(ctx, rotations);
    if constexpr (requires { layer.cost_model(); }) cost_model = layer.cost_model();
  }

  /// Its basis.
  const Basis& basis() const { return *source->basis(); }
  /// What error messages call it: "layer 3 ('up')", or "weight 3 ('up')" where it came by add_weight.
  std::string title() const {
    return (given != nullptr ? "weight " : "layer ") + std::to_string(number) +
           (kind.empty() ? std::string() : " ('" + kind + "')");
  }
  /// Returns f(), whose Errors then name this member.
  template <class F>
  decltype(auto) named(F&& f) const {
    return with_name([this] { return title(); }, std::forward<F>(f));
  }
  /// Throws StateError when its layer is gone.
  void require_alive() const {
    if (given != nullptr || !life.expired()) return;
    throw StateError(title() + " was destroyed, expected it to live as long as the group, or until `remove`");
  }
  /// Whether there is a gradient in this step.
  bool has_gradient() const { return has_own_gradient() || !earlier.empty(); }
  /// Whether the selection has been made, or skipped.
  bool is_selected() const { return progress == Progress::selected || progress == Progress::skipped; }
  /// Whether the member has a gradient in this step, or must see to that of other processes.
  bool takes_part(const Rules& rules) const {
    if (progress == Progress::collected) return source->accumulating() || !earlier.empty();
    return progress != Progress::gathering || has_gradient() || rules.reducer != nullptr;
  }
  /// Throws StateError, naming the caller, while a gradient of this step is held.
  void require_idle(const char* call) const {
    const bool idle = progress == Progress::gathering || progress == Progress::collected;
    if (source->accumulating() || !earlier.empty() || !idle) {
      throw StateError(std::string(call) + ": " + title() +
                       " holds a gradient of this step; call step or clear first");
    }
  }

  /// The finished core. At the first call in a step
  ///   1. while bases are collected, the gradient is handed over (see `hand_over`);
  ///   2. the core is made, and, unless dW was, reduced.
  /// Without a gradient it is 0, which is reduced as well, but collected only where other processes
  /// may have one. Throws what the reduce function throws, and StateError from then on until clear.
  MatrixView<const C> finish(Context& ctx, const Rules& rules) {
    if (values_sent) {
      throw StateError(title() +
                       ": the values of its entries are summed over processes, and no core; call select");
    }
    if (hand_over(ctx, rules)) return source->core(ctx);
    MatrixView<const C> core;
    if (rules.reducer != nullptr) {
      const MatrixView<C> own = whole_core(ctx);
      reduce(ctx, rules, own);
      core = own;
    } else {
      core = earlier.empty() ? source->core(ctx) : whole_core(ctx);
    }
    progress = Progress::finished;
    return core;
  }

  /// While bases are collected: dW [out, in] is reduced and goes to the accumulator, once in a
  /// step. Under NonFinite::raise one with NaN or Inf throws NonFiniteError, otherwise it does not
  /// enter the sums. Where each process has sums of its own, dW is not reduced. Returns whether the
  /// gradient of this step is complete: only its core may be missing.
  bool hand_over(Context& ctx, const Rules& rules) {
    require_whole();
    const bool first = progress == Progress::gathering || progress == Progress::collected;
    if (!first) return true;
    require_unfinished(rules);
    if (sums == nullptr || !(has_gradient() || rules.reducer != nullptr)) return false;
    if (rules.sums_collections()) {
      if (!reduced && has_own_gradient()) {
        add_to_sums(ctx, rules);
        reduced = true;
      }
      return false;
    }
    if (rules.reducer != nullptr && !reduced) {
      reduce(ctx, rules, whole_gradient(ctx));
    } else if (!earlier.empty()) {
      (void)whole_gradient(ctx);
    }
    reduced = true;
    detail::blaming(ctx, rules.reducer, number, [&] { add_to_sums(ctx, rules); });
    progress = Progress::finished;
    return true;
  }

  /// Whether the entries are chosen without a look at the core, so that the sum over processes is one
  /// of their values alone.
  bool sends_values(const Rules& rules) const {
    if (source->selects() || values_sent) return true;
    const bool first = progress == Progress::gathering || progress == Progress::collected;
    return first && rules.reducer != nullptr && sums == nullptr && chooser(rules).given_positions();
  }
  /// Begins the sum over processes of what this step sends: dW while bases are collected, the values
  /// of given entries, or the core. `select` or `finish` waits for it.
  void start_reduce(Context& ctx, const Rules& rules) {
    const bool first = progress == Progress::gathering || progress == Progress::collected;
    require_whole();
    if (rules.reducer == nullptr || !first || started) return;
    if (sums != nullptr && (rules.sums_collections() || reduced)) return;
    if (sums != nullptr) {
      require_unfinished(rules);
      start(ctx, rules, whole_gradient(ctx));
    } else if (sends_values(rules)) {
      start(ctx, rules, whole_values(ctx, rules));
    } else {
      require_unfinished(rules);
      start(ctx, rules, whole_core(ctx));
    }
  }

  /// See SparseGradGroup::end_micro_batch.
  void end_micro_batch(Context& ctx, const Rules& rules) {
    require_whole();
    if (started || !(progress == Progress::gathering || progress == Progress::collected))
      throw StateError("end_micro_batch: " + title() +
                       " is finished for this step; call step or clear first");
    if (!has_own_gradient()) return;
    require_unfinished(rules);
    const bool collects = sums != nullptr;
    if (collects && rules.sums_collections()) add_to_sums(ctx, rules);
    if (collects && !rules.sums_collections()) {
      earlier.add(ctx, source->weight_gradient(ctx));
    } else if (sends_values(rules)) {
      earlier.add(ctx, choose(ctx, rules));
      values_sent = false;
    } else {
      earlier.add(ctx, source->own_core(ctx));
    }
    source->clear();
  }

  /// Fills the sparse gradient. `need_norm`: also computes the squared norm of what is selected
  /// from.
  SelectReport select(Context& ctx, const Rules& rules, bool need_norm) {
    SelectReport report;
    squared_norm.reset();
    if (sends_values(rules)) {
      require_whole();
      const MatrixView<C> values = started ? chosen_values() : whole_values(ctx, rules);
      if (rules.reducer != nullptr) reduce(ctx, rules, values);
      report = {gradient.count(), gradient.count(), false, false};
      if (need_norm) squared_norm = B::template squared_norm<C>(ctx, values);
      detail::blaming(ctx, rules.reducer, number,
                      [&] { detail::check_finite<C, B>(ctx, gradient, rules.non_finite, report); });
    } else {
      const MatrixView<const C> core = finish(ctx, rules);
      if (need_norm) squared_norm = B::template squared_norm<C>(ctx, core);
      const AnySelector<C, B>& chosen = chooser(rules);
      if (chosen) make_positions(ctx);
      report = detail::blaming(ctx, rules.reducer, number, [&] {
        return chosen
                   ? chosen.select(ctx, core, gradient, rules.non_finite)
                   : select_entries<C, B>(ctx, TopK{gradient.capacity()}, core, gradient, rules.non_finite);
      });
    }
    progress = report.skipped ? Progress::skipped : Progress::selected;
    if (rules.clears_selected) source->clear();
    return report;
  }

  /// Room for the positions of a selection that does not keep all of the core.
  void make_positions(Context& ctx) {
    gradient.reserve_positions(ctx);
    if (update != nullptr) update->reserve_positions(ctx);
  }

  /// Throws StateError unless dW still stands: a weight of add_weight whose gradient is [out, in]
  /// in C, and which no other process adds to.
  void require_remainder(const Rules& rules) const {
    if (source->standing_gradient().empty() || earlier.used()) {
      throw StateError(
          "step: the optimizer of " + title() +
          " uses the whole gradient, expected one given as [out, in] in the sums' type (set_gradient), of "
          "all micro-batches at once");
    }
    if (rules.reducer != nullptr) {
      throw StateError("step: the optimizer of " + title() +
                       " uses the whole gradient, of which use_reduce adds up the core alone; expected a "
                       "gradient that the engine has reduced, and no use_reduce");
    }
  }
  /// What an optimizer with a member `use_remainder` is given after the update of the weight.
  GradientRemainder<C, B> remainder(Context& ctx, const StepOptions& step) const {
    return {source->standing_gradient(),
            source->core(ctx),
            &basis(),
            update.get(),
            weight->master,
            weight->layout,
            step};
  }

  /// Completes a step of which only the gradient is wanted: hands it to the accumulator.
  void finish_collecting(Context& ctx, const Rules& rules) {
    if (source->selects() || !(has_gradient() || rules.reducer != nullptr)) return;
    if (hand_over(ctx, rules) || (sums != nullptr && rules.sums_collections())) return;
    finish(ctx, rules);
  }
  /// The same, and ends the member's step.
  void collect(Context& ctx, const Rules& rules) {
    finish_collecting(ctx, rules);
    source->clear();
    earlier.clear();
    reduced = false;
    progress = Progress::collected;
  }

  /// Sums a gradient of this step over the processes. What it leaves when it throws is no gradient.
  void reduce(Context& ctx, const Rules& rules, MatrixView<C> g) {
    try {
      if (!started) start(ctx, rules, g);
      rules.reducer->wait(ctx, number, g);
      started = false;
    } catch (...) {
      progress = Progress::broken;
      throw;
    }
  }
  /// Throws StateError after a reduce that threw.
  void require_whole() const {
    if (progress == Progress::broken)
      throw StateError(title() +
                       ": use_reduce's function threw in this step, and may have summed a part of the "
                       "gradient; call clear and begin the step again");
  }

  /// Forgets the gradient of this step.
  void clear() {
    source->clear();
    progress = Progress::gathering;
    reduced = false;
    started = false;
    values_sent = false;
    refused = false;
    earlier.clear();
    squared_norm.reset();
  }

  /// Drops the selected entries, the update and the optimizer, to be made anew.
  void forget_state() {
    gradient = {};
    update = nullptr;
    optimizer = nullptr;
  }

 private:
  /// Whether there is one since the last micro-batch ended.
  bool has_own_gradient() const { return given != nullptr ? given->has_gradient() : source->accumulating(); }
  /// dW, the core: of all micro-batches of this step.
  MatrixView<C> whole_gradient(Context& ctx) {
    const bool own = has_own_gradient();
    return earlier.add_to(ctx, source->weight_gradient(ctx), own);
  }
  MatrixView<C> whole_core(Context& ctx) {
    const bool own = has_own_gradient();
    return earlier.add_to(ctx, source->own_core(ctx), own);
  }
  /// The member's selector, or the group's.
  const AnySelector<C, B>& chooser(const Rules& rules) const { return selector ? selector : rules.selector; }
  MatrixView<C> chosen_values() { return MatrixView<C>(gradient.values(), 1, gradient.count()); }
  /// This process's values of entries that are given beforehand.
  MatrixView<C> choose(Context& ctx, const Rules& rules) {
    make_positions(ctx);
    if (source->selects()) {
      detail::erase<C, B>(ctx, gradient);
      source->select(ctx, gradient);
      detail::require_positions<C, B>(ctx, gradient, "the source of the gradient");
    } else {
      require_unfinished(rules);
      (void)chooser(rules).select(ctx, source->core(ctx), gradient, NonFinite::propagate);
      values_sent = true;
    }
    return chosen_values();
  }
  MatrixView<C> whole_values(Context& ctx, const Rules& rules) {
    const bool own = has_own_gradient();
    return earlier.add_to(ctx, choose(ctx, rules), own);
  }
  void start(Context& ctx, const Rules& rules, MatrixView<C> g) {
    try {
      started = true;
      rules.reducer->start(ctx, number, g);
    } catch (...) {
      progress = Progress::broken;
      throw;
    }
  }
  void add_to_sums(Context& ctx, const Rules& rules) {
    const index_t before = sums->count();
    source->add_to(ctx, *sums, rules.non_finite);
    refused = sums->count() == before;
  }
  /// Throws StateError where the core was asked for before the gradient could be summed.
  void require_unfinished(const Rules& rules) const {
    if (started || values_sent || !source->finished() || (rules.reducer == nullptr && sums == nullptr))
      return;
    throw StateError(title() + " was finished (core, gradient, select) before it could be " +
                     (rules.reducer != nullptr ? "reduced" : "collected") + "; call the group's finish");
  }
};

/// Throws ValueError unless a weight that is kept elsewhere, and it alone, comes with a function for
/// its updates, into a group whose step does not change weights itself.
inline void require_updates(bool elsewhere, bool has_function, bool changes_weights) {
  if (elsewhere != has_function) {
    throw ValueError(elsewhere ? "add: the layer's weight is kept elsewhere, expected a function that takes "
                                 "its updates"
                               : "add: a function for the updates was given, expected none: the layer has a "
                                 "weight, which takes them");
  }
  if (has_function && changes_weights)
    throw ValueError(
        "add: the layer's weight is kept elsewhere, expected one in memory: this group's step changes "
        "weights itself");
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
