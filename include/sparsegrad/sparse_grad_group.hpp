// SparseGradGroup: the optimizer of a whole model's weight matrices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "basis_collection.hpp"
#include "batched_step.hpp"
#include "group_member.hpp"
#include "group_members.hpp"
#include "group_options.hpp"
#include "group_state.hpp"
#include "sequential_step.hpp"
#include "sparse_adam.hpp"
#include "sparse_grad_linear.hpp"

namespace sparsegrad {

/// Options of a group with SparseAdam, the default optimizer.
using GroupOptions = BasicGroupOptions<SparseAdamOptions>;

/// Optimizer of many weight matrices: finds their bases, keeps the entries that matter, takes sparse steps.
///
/// An engine that has W and its gradient dW needs no more than this:
///
///     SparseGradGroup<float> group({.density = 0.012, .warmup_steps = 10});
///     auto w = group.add_weight(ctx, {W, out, in}, "up");
///     for (;;) {
///       backprop(W, dW);                             // the engine's own
///       group.set_gradient(w, {dW, out, in});        // borrowed until the step
///       group.step(ctx, {.learning_rate = 1e-4});    // ten steps collect, then bases are fitted, then W trains
///     }
///
/// Layers that make the gradient from tokens are added by `add`. The phases can be the caller's own:
///
///     group.collect(ctx, recipe);            // every step's gradients feed the accumulators
///     ... forward, backward, group.end_collecting_step(ctx) ...
///     group.refresh(ctx);                    // bases fitted, optimizer states made for them
///     ... forward, backward, group.step(ctx, {.learning_rate = 1e-4}) ...
///
/// Weights and layers are borrowed and must live while the group is used. When the group ends first, layers go on as
/// they are. Strong exception guarantee: a call that throws has changed nothing, unless its text says otherwise. (Where
/// memory runs out, in a step without `reserve` or in a change of bases, only the calls that say so keep it.)
///
/// `O` is the optimizer of each core, a CoreOptimizer; its options are part of the group's.
template <class T, Backend B = DefaultBackend, class O = SparseAdam<compute_t<T>, B>>
requires CoreOptimizer<O, compute_t<T>, B>
class SparseGradGroup {
 public:
  using C = compute_t<T>;  ///< of gradients, bases, moments and updates
  /// The backend's context.
  using Context = typename B::Context;
  /// The project's own layer.
  using Layer = SparseGradLinear<T, B>;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// The optimizer of each core.
  using Optimizer = O;
  /// The options' type.
  using Options = BasicGroupOptions<typename O::Options>;
  /// The state in host memory.
  using State = GroupState<C, B>;

  /// Throws ValueError unless 0 < density <= 1 (or entries > 0), capacity_factor >= 0 and warmup_steps >= 0.
  explicit SparseGradGroup(Options options = {})
      : warmup_left_(options.warmup_steps), members_(std::move(options)) {
    if (warmup_left_ < 0)
      throw ValueError("warmup_steps is " + std::to_string(warmup_left_) + ", expected >= 0");
  }
  SparseGradGroup(const SparseGradGroup&) = delete;

  /// Adds a layer; returns its number. `kind` names the layers that share a basis under BasisScope::kind; they must have
  /// the same extents (checked when the collection begins). Throws StateError while collecting, or, where gradient memory
  /// is shared or a warm-up comes, when the layer holds a gradient or the memory must grow in another's turn.
  template <class L>
  requires GroupLayer<L, T, B> index_t add(Context& ctx, L& layer, const std::string& kind) {
    require_open(ctx, "add");
    Member member;
    member.source = &layer.gradient();
    member.weight = layer.trained_weight();
    if constexpr (requires { layer.options().cost_model; }) member.cost_model = layer.options().cost_model;
    members_.join(ctx, layer.gradient(), warming_up());
    return append(ctx, std::move(member), kind);
  }

  /// Adds a weight W [out, in] (or [in, out], by option) whose gradient dW the engine makes itself; returns its number.
  /// Both stay the engine's. `kind` as in `add`. Throws ShapeError when W is empty, or dW's shape another; StateError as
  /// `add`.
  index_t add_weight(Context& ctx, MatrixView<T> weight, const std::string& kind,
                     WeightOptions<C> options = {}) {
    return add_weight(ctx, TrainedWeight<T>(weight, options.layout), kind, options);
  }
  /// The same for a W of 16 bits with its master, which becomes the rounded master here.
  index_t add_weight(Context& ctx, MatrixView<T> weight, MatrixView<C> master, const std::string& kind,
                     WeightOptions<C> options = {}) requires(is_low_precision<T>) {
    const TrainedWeight<T> trained(weight, master, options.layout);
    const index_t i = add_weight(ctx, trained, kind, options);
    trained.template round<B>(ctx);
    return i;
  }

  /// The gradient of weight i in this step: dW of the weight's shape, or its transpose by `layout`, in C, bfloat16 or
  /// half. Borrowed until the step (or clear); nothing is copied. Throws ShapeError; StateError for a layer of `add`,
  /// which makes its own, or when the core of one given before was already asked for.
  void set_gradient(index_t i, ConstMatrixView<C> dw, std::optional<WeightLayout> layout = {}) {
    set_gradient(i, {dw, layout.value_or(members_.at(i).weight.layout)});
  }
  /// The same with a dW in bfloat16.
  void set_gradient(index_t i, MatrixView<const bfloat16> dw, std::optional<WeightLayout> layout = {}) {
    set_gradient(i, {dw, layout.value_or(members_.at(i).weight.layout)});
  }
  /// The same with a dW in float16.
  void set_gradient(index_t i, MatrixView<const float16> dw, std::optional<WeightLayout> layout = {}) {
    set_gradient(i, {dw, layout.value_or(members_.at(i).weight.layout)});
  }

  /// Number of layers and weights.
  index_t size() const { return members_.size(); }
  /// These throw ValueError for a number that no layer has.
  CoreSource<C, B>& source(index_t i) { return *members_.at(i).source; }
  /// What makes the core gradient of layer i. Throws ValueError when there is none.
  const CoreSource<C, B>& source(index_t i) const { return *members_.at(i).source; }
  /// The basis of layer i. Throws ValueError when there is no such layer.
  const std::shared_ptr<const Basis>& basis(index_t i) const { return members_.at(i).source->basis(); }
  /// The kind of layer i. Throws ValueError when there is none.
  const std::string& kind(index_t i) const { return members_.at(i).kind; }
  /// Throws StateError during a collection before the first step, when there is none yet.
  O& optimizer(index_t i) {
    if (members_.at(i).optimizer == nullptr)
      throw StateError("optimizer: layer " + std::to_string(i) + " gets it at refresh");
    return *members_.at(i).optimizer;
  }
  /// The sparse gradient of the last selection.
  const SparseGradient<C, B>& gradient(index_t i) const { return members_.at(i).gradient; }
  /// Entries that the layer keeps in a step.
  index_t kept(index_t i) const { return members_.wanted(members_.at(i), members_.at(i).basis()); }
  /// The options that it was made with.
  const Options& options() const { return members_.options(); }
  /// Selects every layer's entries with a copy of this in place of TopK. GroupOptions' entries (or density) then say how
  /// many there may be at most. One with a state of its own belongs to one layer: see below.
  template <class S>
  requires Selector<S, C, B>
  void use_selector(S selector) {
    AnySelector<C, B> any(std::move(selector));
    if (any.keeps_state())
      throw ValueError(
          "use_selector: a selector with a state is one layer's own; give it with the layer's number");
    members_.rules().selector = std::move(any);
  }
  /// TopK again.
  void use_selector(std::nullptr_t) { members_.rules().selector = {}; }
  /// The same for one layer: by value, or a shared pointer to an object that the caller keeps in view. Throws StateError
  /// for a selector that wants the core when the step is taken (`committed`) with share_gradient_memory, where it is gone
  /// then; ValueError when another layer has this object.
  template <class S>
  requires Selector<S, C, B>
  void use_selector(Context& ctx, index_t i, S selector) {
    members_.use_selector(ctx, i, AnySelector<C, B>(std::move(selector)));
  }
  /// Gives layer i a selector that it shares with the caller.
  template <class S>
  requires Selector<S, C, B>
  void use_selector(Context& ctx, index_t i, std::shared_ptr<S> selector) {
    members_.use_selector(ctx, i,
                          selector == nullptr ? AnySelector<C, B>() : AnySelector<C, B>(std::move(selector)));
  }
  /// The selector of all layers again.
  void use_selector(Context&, index_t i, std::nullptr_t) { members_.at(i).selector = {}; }

  /// For data-parallel training: `reduce(ctx, G)` makes G the sum over all processes, in place (MPI_Allreduce, NCCL),
  /// once for each layer and step, when it is selected or its collecting step ends: the core [r, c], the values of a
  /// source that selects by itself [1, k], or, while collecting, dW [out, in] before the accumulator sees it. So all
  /// processes fit the same bases and take the same steps. All must finish the same layers in the same order; one without
  /// a gradient of its own takes part with 0. Null: none. Throws StateError while a layer holds a gradient.
  void use_reduce(Reduce<C, B> reduce) {
    members_.require_idle("use_reduce");
    members_.rules().reduce = std::move(reduce);
  }

  /// After this no call of a step with up to `max_tokens` tokens allocates (but for Overflow::go_dense, once).
  void reserve(Context& ctx, index_t max_tokens = 0) {
    members_.reserve(ctx, max_tokens);
    step_.reserve(ctx, members_.all());
  }

  /// Starts to feed every step's gradients to accumulators, as `recipe` shares them. Collecting again starts anew.
  /// Throws ShapeError when layers of one kind differ in extents under BasisScope::kind, StateError while a layer holds a
  /// gradient or can form none; what recipe.sides throws.
  void collect(Context& ctx, const BasisRecipe& recipe) {
    require_host_counts("collect");
    check(ctx);
    members_.require_idle("collect");
    collection_ = members_.start_collection(ctx, recipe);
    members_.form_weight_gradients(ctx);
    warmup_left_ = 0;
  }
  /// Whether gradients are being collected for bases.
  bool collecting() const { return collection_.has_value(); }
  /// Whether steps only collect: the first warmup_steps.
  bool warming_up() const { return warmup_left_ > 0; }

  /// Ends a collection without a fit: bases and moments stay as they are. Throws StateError while a layer holds a
  /// gradient.
  void stop_collecting(Context& ctx) {
    members_.require_idle("stop_collecting");
    for (Member& m : members_.all()) {
      members_.end_collection(ctx, m);
      if (m.optimizer == nullptr) members_.prepare(ctx, m);
    }
    collection_.reset();
    warmup_left_ = 0;
  }

  /// Finishes a step of which only the gradients are wanted: hands them to the accumulators, then forgets them. NaN and
  /// Inf: NonFiniteError under NonFinite::raise, else that layer's gradient is left out.
  void end_collecting_step(Context& ctx) {
    begin_warm_up(ctx);
    for (Member& m : members_.all()) {
      if (m.progress != Progress::gathering && m.progress != Progress::finished) continue;
      // Gradients that take turns in one memory make room for each other; others stand until all are taken.
      if (members_.rules().clears_selected) {
        m.collect(ctx, members_.rules());
      } else {
        m.finish_collecting(ctx, members_.rules());
      }
    }
    clear(ctx);
  }
  /// The same for layer i alone, whose gradient memory is free then; end_collecting_step(ctx) ends the step of all.
  void end_collecting_step(Context& ctx, index_t i) {
    Member& m = members_.at(i);
    begin_warm_up(ctx);
    m.collect(ctx, members_.rules());
  }

  /// Fits the bases from what was collected, sets them and rebases the optimizers; ends the collection. (Recipes that
  /// need no gradients want a `collect` as well, but no step after it.) Returns what the rebase of each layer did, zeros
  /// under MomentsPolicy::reset. Throws StateError without `collect`, while a layer holds a gradient, or when gradients
  /// were needed and none came; what TuckerBasis::fit throws.
  std::vector<RebaseReport> refresh(Context& ctx, MomentsPolicy moments = MomentsPolicy::reset) {
    if (!collecting()) throw StateError("refresh: nothing was collected; call collect first");
    require_host_counts("refresh");
    check(ctx);
    members_.require_idle("refresh");
    for (const Member& m : members_.all())
      m.source->require_new_basis("refresh");
    collection_->fit(ctx);
    std::vector<RebaseReport> reports;
    for (Member& m : members_.all()) {
      members_.end_collection(ctx, m);
      reports.push_back(members_.set_basis(ctx, m, collection_->basis(m.number), moments));
    }
    collection_.reset();
    warmup_left_ = 0;
    members_.shrink_gradient_memory(ctx);
    return reports;
  }

  /// Sets a basis of the caller's own for one layer; null: none. Returns what the rebase of its optimizer did, zeros
  /// under MomentsPolicy::reset. Throws ShapeError; StateError while the layer holds a gradient, or a selection that no
  /// step has taken.
  RebaseReport set_basis(Context& ctx, index_t i, std::shared_ptr<const Basis> basis,
                         MomentsPolicy moments = MomentsPolicy::reset) {
    require_host_counts("set_basis");
    check(ctx);
    return members_.set_basis(ctx, members_.at(i), std::move(basis), moments);
  }

  /// Selects layer i's entries now; `step` then does not select it again. Without a gradient it keeps nothing and the
  /// layer is left out of the step. `need_norm`: also computes the norm that squared_norm wants of layers that were
  /// selected before it. Throws what the selector throws, and StateError, with share_gradient_memory, for a second
  /// selection in one step.
  SelectReport select(Context& ctx, index_t i, bool need_norm = false) {
    Member& m = members_.at(i);
    members_.require_one_selection(m);
    begin_warm_up(ctx);
    if (!m.takes_part(members_.rules())) return {};
    if (m.optimizer == nullptr)
      members_.prepare(ctx, m);  // a step before the refresh that the collection is for
    return m.select(ctx, members_.rules(), need_norm);
  }

  /// The finished core of layer i, after `use_reduce`'s function.
  MatrixView<const C> finish(Context& ctx, index_t i) {
    Member& m = members_.at(i);
    begin_warm_up(ctx);
    return m.finish(ctx, members_.rules());
  }

  /// Sum of squares of all cores (of the values of sources that select by themselves) before grad_scale: for clipping
  /// over these and all other parameters of a model. Finishes the gradients. Then
  ///
  ///     grad_scale = min(1, max_norm / sqrt(group.squared_norm(ctx) + that of the other parameters))
  ///
  /// Throws StateError for a layer that was selected without need_norm.
  double squared_norm(Context& ctx) {
    begin_warm_up(ctx);
    return members_.squared_norm(ctx);
  }

  /// The step of all layers: select; check everything; then moments, weights, clear. A layer without a gradient since the
  /// last clear is left out, as if it were not in the group. When it throws, no weight and no optimizer state has changed;
  /// the gradients are kept, so that the caller can look at them. During the warm-up it only collects, and its last step
  /// fits the bases.
  /// On a BatchedBackend the layers' steps are taken together, and NaN or Inf may show in a later call: see BatchedStep.
  /// Throws NonFiniteError under NonFinite::raise, CapacityError under Overflow::error, ValueError for bad options,
  /// StateError for a backward after select in shared gradient memory.
  GroupReport step(Context& ctx, const GroupStep& options) {
    const StepOptions step_options{.learning_rate = options.learning_rate, .grad_scale = options.grad_scale};
    const double decay = require_decay(options);
    for (const Member& m : members_.all())
      members_.require_one_selection(m);
    if (warming_up()) return warm_up(ctx);
    members_.prepare_missing(ctx);
    step_.select_together(ctx, members_.all(), members_.rules(), false);
    GroupReport report;
    if (members_.select(ctx, report)) {
      members_.require_step(ctx);
      members_.commit(ctx, report);
      step_.update(ctx, members_.all(), step_options, decay, report);
    }
    clear(ctx);
    return report;
  }

  /// Waits for the steps that did not wait (BatchedStep): returns how many of them changed nothing, for NaN or Inf, since
  /// the last call. Throws NonFiniteError where the policy is `raise` and there were any. To be called before the
  /// optimizers' states are saved; whatever changes bases or layers calls it.
  index_t check(Context& ctx) { return step_.check(ctx, members_.all()); }

  /// From now on the steps are counted in the backend's memory as well, from what the optimizers have counted: a step
  /// that was captured in a CUDA graph goes on with the bias correction at every replay, where it would repeat that of
  /// the captured step. Its learning rate stays that of the capture. The optimizers' own counts stand still in a replay
  /// until count_on_host, before which no basis can change. Every layer must step together with the others (see `step`,
  /// which throws StateError).
  void count_on_device(Context& ctx) requires BatchedBackend<B> {
    check(ctx);
    step_.count_on_device(ctx, members_.all());
  }
  /// Brings the optimizers' counts up to date with the backend's memory and ends count_on_device.
  void count_on_host(Context& ctx) requires BatchedBackend<B> { step_.count_on_host(ctx, members_.all()); }

  /// Forgets all gradients and selections.
  void clear(Context&) {
    for (Member& m : members_.all())
      m.clear();
  }

  /// All that a checkpoint must hold beside the weights (and the caller's own options): bases, plans, optimizer states,
  /// states of selectors; arrays in host memory. On a BatchedBackend after `check`, which corrects the counts of steps
  /// that changed nothing. Throws StateError while gradients are collected or held.
  State state(Context& ctx) const {
    require_not_collecting("state", collecting() || warming_up());
    members_.require_idle("state");
    return detail::group_state<C, B>(ctx, members_);
  }

  /// Takes a state over, into a group with the same options and layers (and selectors where they had a state), whose
  /// weights the caller restores; the warm-up is over then. The plans stay until a basis changes or set_plan is called.
  /// Throws ValueError, naming layer and difference, or StateError as `state`.
  void restore(Context& ctx, const State& state) {
    check(ctx);
    require_host_counts("restore");
    require_not_collecting("restore", collecting() && !warming_up());
    members_.require_idle("restore");
    detail::require_group_state<C, B>(ctx, members_, state);
    for (Member& m : members_.all())
      members_.end_collection(ctx, m);
    detail::restore_group_state<C, B>(ctx, members_, state);
    collection_.reset();
    warmup_left_ = 0;
  }

  /// Bytes that the group, its layers' gradients and `ctx`'s scratch hold.
  GroupMemory memory(Context& ctx) const {
    GroupMemory sum = members_.memory();
    if (collection_) sum.collection = collection_->bytes();
    sum.scratch = ctx.scratch().bytes();
    return sum;
  }

 private:
  using Member = GroupMember<T, B, O>;
  using Progress = typename Member::Progress;
  static constexpr bool steps_together =
      BatchedBackend<B> && BatchedOptimizer<O, C, B> && !RemainderOptimizer<O, C, B>;
  using Step = std::conditional_t<steps_together, BatchedStep<T, B, O>, SequentialStep<T, B, O>>;

  void require_open(Context& ctx, const char* call) {
    require_host_counts(call);
    require_not_collecting(call, collecting());
    check(ctx);
  }
  index_t append(Context& ctx, Member member, const std::string& kind) {
    step_.attach(ctx);
    return members_.add(ctx, std::move(member), kind, warming_up());
  }
  index_t add_weight(Context& ctx, const TrainedWeight<T>& weight, const std::string& kind,
                     const WeightOptions<C>& options) {
    require_open(ctx, "add_weight");
    Member member;
    member.weight = weight;
    member.cost_model = options.cost_model;
    member.given = std::make_unique<GivenGradient<C, B>>(ctx, weight.out_extent(), weight.in_extent(),
                                                         options.cost_model);
    member.source = member.given.get();
    if (!options.gradient.empty()) member.given->keep({options.gradient, options.layout});
    members_.join(ctx, *member.given, warming_up());
    return append(ctx, std::move(member), kind);
  }
  void set_gradient(index_t i, const WeightGradientView<C>& dw) {
    Member& m = members_.at(i);
    if (m.given == nullptr) {
      throw StateError("set_gradient: layer " + m.text() +
                       " makes its own gradient (add); only a weight of add_weight is given one");
    }
    m.given->set(dw);
  }

  /// The warm-up's collection begins with the first gradient that is asked for; the sources have formed whole gradients
  /// since they were added.
  void begin_warm_up(Context& ctx) {
    if (warming_up() && !collecting()) collection_ = members_.start_collection(ctx, options().recipe);
  }
  GroupReport warm_up(Context& ctx) {
    GroupReport report;
    report.warming_up = true;
    begin_warm_up(ctx);
    for (const Member& m : members_.all())
      report.without_gradient += m.takes_part(members_.rules()) || m.progress == Progress::collected ? 0 : 1;
    end_collecting_step(ctx);
    if (warmup_left_ > 1 && collection_->needs_gradients()) {
      --warmup_left_;
    } else {
      refresh(ctx);
    }
    return report;
  }

  void require_not_collecting(const char* call, bool collects) const {
    if (collects)
      throw StateError(std::string(call) +
                       ": gradients are being collected; call refresh or stop_collecting first");
  }
  void require_host_counts(const char* call) const {
    if (step_.counts_on_device())
      throw StateError(std::string(call) + ": steps are counted on the device; call count_on_host first");
  }

  index_t warmup_left_ = 0;
  GroupMembers<T, B, O> members_;
  std::optional<BasisCollection<C, B>> collection_;
  Step step_;
};

}  // namespace sparsegrad
