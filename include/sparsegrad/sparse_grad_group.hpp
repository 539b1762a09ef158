// SparseGradGroup: the optimizer of a whole model's weight matrices.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "group_bases.hpp"
#include "group_options.hpp"
#include "group_state.hpp"
#include "sparse_adam.hpp"
#include "sparse_grad_linear.hpp"
#include "unread_gradients.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Options of a group with SparseAdam, the default optimizer.
using GroupOptions = BasicGroupOptions<SparseAdamOptions>;

/// Optimizer of many weight matrices: finds their bases, keeps the entries that matter, takes
/// sparse steps.
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
/// Layers that make the gradient from tokens are added by `add`. The phases can be the caller's
/// own:
///
///     group.collect(ctx, recipe);            // every step's gradients feed the accumulators
///     group.end_collecting_step(ctx);        // after forward and backward, as often as wanted
///     group.refresh(ctx);                    // bases fitted, optimizer states made for them
///     group.step(ctx, {.learning_rate = 1e-4});
///
/// Weights and layers are borrowed and must live while the group is used: a call that meets a layer
/// which was destroyed throws StateError, naming it. When the group ends first, layers go on as they
/// are. Strong exception guarantee: a call that throws has changed nothing, unless its text says
/// otherwise. (Where memory runs out, in a step without `reserve` or in a change of bases, only the
/// calls that say so keep it.)
///
/// `O` is the optimizer of each core, a CoreOptimizer; its options are part of the group's.
template <class T, Backend B = DefaultBackend, class O = SparseAdam<compute_t<T>, B>>
requires CoreOptimizer<O, compute_t<T>, B>
class SparseGradGroup : public GroupBases<T, B, O> {
  using Bases = GroupBases<T, B, O>;
  using typename Bases::Member;

 public:
  using typename Bases::C;
  using typename Bases::Context;
  using typename Bases::Options;
  /// The layer that forms its core gradient from tokens.
  using Layer = SparseGradLinear<T, B>;
  /// The optimizer of each core.
  using Optimizer = O;
  /// The state in host memory.
  using State = GroupState<C, B>;

  /// Throws ValueError unless 0 < density <= 1 (or entries > 0), entries, capacity_factor and
  /// warmup_steps >= 0, and, where there is a warm-up, its recipe has a function `sides`.
  explicit SparseGradGroup(Options options = {}) : Bases(std::move(options)) {}

  using Bases::check;
  using Bases::clear;
  using Bases::collecting;
  using Bases::warming_up;

  /// Selects every layer's entries with a copy of this in place of TopK. GroupOptions' entries (or
  /// density) then say how many there may be at most. One with a state of its own belongs to one
  /// layer: see below.
  template <class S>
  requires Selector<S, C, B>
  void use_selector(S selector) {
    require_callable(selector);
    AnySelector<C, B> any(std::move(selector));
    if (any.keeps_state())
      throw ValueError(
          "use_selector: a selector with a state belongs to one weight; give it with that one's number");
    members_.rules().selector = std::move(any);
  }
  /// TopK again.
  void use_selector(std::nullptr_t) { members_.rules().selector = {}; }
  /// The same for one layer: by value, or a shared pointer to an object that the caller keeps in
  /// view. Throws StateError for a selector that wants the core when the step is taken
  /// (`committed`) with share_gradient_memory, where it is gone then; ValueError when another layer
  /// has this object, or for an empty function.
  template <class S>
  requires Selector<S, C, B>
  void use_selector(Context& ctx, index_t i, S selector) {
    require_callable(selector);
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

  /// For data-parallel training: `reducer` sums each layer's gradient over all processes, once in a
  /// step, when its selection is due or its collecting step ends (a sum that threw is not repeated:
  /// until `clear` the layer's gradient is then refused). So all processes fit the same bases and take
  /// the same steps. What is summed:
  ///
  ///     while bases are collected   dW [out, in], before the accumulator sees it; or, by the reducer's
  ///                                 sums_collections, the Gram sums once, in `refresh`
  ///     entries given beforehand    their values [1, k]: sources that select by themselves, FixedSupport
  ///     else                        the core [r, c]
  ///
  /// A step starts the sums of all layers before it waits for the first. All processes must finish the
  /// same layers in the same order; one without a gradient of its own takes part with 0. Null: none.
  /// Throws StateError while a layer holds a gradient.
  void use_reduce(std::shared_ptr<GradientReducer<C, B>> reducer);
  /// The same by a function that makes G the sum over all processes, in place and at once.
  void use_reduce(Reduce<C, B> reduce);
  /// No sums over processes.
  void use_reduce(std::nullptr_t) { use_reduce(std::shared_ptr<GradientReducer<C, B>>()); }

  /// Layer i's gradient of this step is complete: begins its sum over processes, while the backward
  /// pass goes on with other layers. All processes call it in the same order; layers for which it is
  /// not called begin in the step. Nothing without use_reduce, or where Gram sums are collected. From
  /// then on a FixedSupport's values are summed and not the core, and squared_norm is theirs. Throws
  /// StateError under share_gradient_memory, where `select` ends a layer's turn.
  void start_reduce(Context& ctx, index_t i);

  /// The gradients since the last call are those of one micro-batch; to be called before the next
  /// one's first backward. Each micro-batch's dW, core or values are then made by themselves and added
  /// in order, so that N micro-batches have the bits of N processes with one each that add in the order
  /// of their ranks (SumOrder::rank). Without it a layer's source sums tokens as they come, which is
  /// faster and rounds otherwise. Where Gram sums are collected in each process, every micro-batch is a
  /// gradient of its own. Memory: one more core (dW, while collecting) a layer. Throws StateError when a
  /// layer is finished for this step; NonFiniteError as end_collecting_step.
  void end_micro_batch(Context& ctx) {
    for (index_t i = 0; i < this->size(); ++i)
      end_micro_batch(ctx, i);
  }
  /// The same for layer i alone, whose gradient memory is free then.
  void end_micro_batch(Context& ctx, index_t i);

  /// After this no call of a step with up to `max_tokens` tokens allocates, but for a state that
  /// goes dense (Overflow::go_dense), and for a first dW that must be copied (GivenGradient). Steps
  /// that collect allocate; what comes after them, or another change of bases, is reserved anew by
  /// that change. Throws ValueError unless max_tokens >= 0 and can be counted.
  void reserve(Context& ctx, index_t max_tokens = 0) {
    this->reserve_steps(ctx, max_tokens);
    unread_.reserve(this->size());
  }

  /// Selects layer i's entries now; `step` then does not select it again. Without a gradient it
  /// keeps nothing and the layer takes no part in the step. `need_norm`: also computes the norm that
  /// squared_norm wants of layers that were selected before it. Throws what the selector throws,
  /// and StateError, with share_gradient_memory, for a second selection in one step.
  SelectReport select(Context& ctx, index_t i, bool need_norm = false);

  /// The finished core of layer i, after `use_reduce`'s function.
  MatrixView<const C> finish(Context& ctx, index_t i);

  /// Makes cores for later calls of `finish`: on a BatchedBackend those of layers of one shape by common
  /// products.
  void finish_together(Context& ctx) {
    begin_warm_up(ctx);
    step_.finish_together(ctx, members_.all(), members_.rules());
  }

  /// Sum of squares of all cores (of the values of sources that select by themselves) before
  /// grad_scale: for clipping over these and all other parameters of a model. Finishes the
  /// gradients. Then
  ///
  ///     grad_scale = min(1, max_norm / sqrt(group.squared_norm(ctx) + that of the other parameters))
  ///
  /// Throws StateError for a layer that was selected without need_norm.
  double squared_norm(Context& ctx);

  /// The step of all layers: select; check everything; then moments, weights, clear. A layer
  /// without a gradient since the last clear takes no part, as if it were not in the group. When it
  /// throws, no weight and no optimizer state has changed; the gradients are kept, so that the
  /// caller can look at them. During the warm-up it only collects, and its last step fits the
  /// bases. On a BatchedBackend the layers' steps are taken together, and NaN or Inf may show in a
  /// later call: see BatchedStep. Throws NonFiniteError under NonFinite::raise, and where grad_scale takes
  /// kept entries beyond the type of the sums (NonFinite::skip: the step is left out), CapacityError under
  /// Overflow::error, ValueError for bad options and for two gradients in the same memory, StateError
  /// without layers, or for a backward after
  /// select in shared gradient memory.
  GroupReport step(Context& ctx, const GroupStep& options);

  /// From now on the steps are counted in the backend's memory as well, from what the optimizers
  /// have counted: a step that was captured in a CUDA graph goes on with the bias correction at
  /// every replay, where it would repeat that of the captured step. Its learning rate stays that of
  /// the capture. The optimizers' own counts stand still in a replay until count_on_host, before
  /// which no basis can change. Every layer must step together with the others (see `step`, which
  /// throws StateError).
  void count_on_device(Context& ctx) requires BatchedBackend<B> {
    check(ctx);
    step_.count_on_device(ctx, members_.all());
  }
  /// Brings the optimizers' counts up to date with the backend's memory and ends count_on_device.
  void count_on_host(Context& ctx) requires BatchedBackend<B> { step_.count_on_host(ctx, members_.all()); }

  /// All that a checkpoint must hold beside the weights (and the caller's own options): bases,
  /// plans, optimizer states, states of selectors; arrays in host memory. On a BatchedBackend after
  /// `check`, which corrects the counts of steps that changed nothing. What a reducer remembers is of
  /// each process another and is saved by itself (GradientReducer::state). Throws StateError while
  /// gradients are collected or held.
  State state(Context& ctx) const;

  /// Takes a state over, into a group with the same options and layers (and selectors where they
  /// had a state), whose weights the caller restores; the warm-up is over then. The plans stay
  /// until a basis changes or set_plan is called. Throws ValueError, naming layer and difference,
  /// or StateError as `state`.
  void restore(Context& ctx, const State& state);

  /// Bytes that the group, its layers' gradients and `ctx`'s scratch hold.
  GroupMemory memory(Context& ctx) const;

 private:
  using Bases::begin_warm_up;
  using Bases::collection_;
  using Bases::members_;
  using Bases::require_host_counts;
  using Bases::require_layers;
  using Bases::require_not_collecting;
  using Bases::step_;
  using Bases::warmup_left_;

  /// Throws ValueError for a function pointer or std::function that is empty.
  template <class S>
  static void require_callable(const S& selector) {
    bool empty = false;
    if constexpr (std::is_pointer_v<S>) {
      empty = selector == nullptr;
    } else if constexpr (requires { selector.operator bool(); }) {
      empty = !selector;
    }
    if (empty) throw ValueError("use_selector: the function is empty; nullptr stands for TopK");
  }
  GroupReport warm_up(Context& ctx);

  detail::UnreadGradients unread_;
};

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
void SparseGradGroup<T, B, O>::use_reduce(std::shared_ptr<GradientReducer<C, B>> reducer) {
  members_.require_idle("use_reduce");
  members_.rules().reducer = std::move(reducer);
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
void SparseGradGroup<T, B, O>::use_reduce(Reduce<C, B> reduce) {
  if (!reduce) return use_reduce(nullptr);
  use_reduce(std::make_shared<detail::FunctionReducer<C, B>>(std::move(reduce)));
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
void SparseGradGroup<T, B, O>::start_reduce(Context& ctx, index_t i) {
  Member& m = members_.at(i);
  if (members_.rules().clears_selected)
    throw StateError("start_reduce: " + m.title() +
                     " shares gradient memory, which its selection frees; call select");
  begin_warm_up(ctx);
  m.named([&] { m.start_reduce(ctx, members_.rules()); });
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
void SparseGradGroup<T, B, O>::end_micro_batch(Context& ctx, index_t i) {
  Member& m = members_.at(i);
  begin_warm_up(ctx);
  m.named([&] { m.end_micro_batch(ctx, members_.rules()); });
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B> SelectReport SparseGradGroup<T, B, O>::select(Context& ctx,
                                                                                         index_t i,
                                                                                         bool need_norm) {
  Member& m = members_.at(i);
  members_.require_one_selection(m);
  begin_warm_up(ctx);
  if (!m.takes_part(members_.rules())) return {};
  if (m.optimizer == nullptr)
    members_.prepare(ctx, m);  // a step before the refresh that the collection is for
  return m.named([&] { return m.select(ctx, members_.rules(), need_norm); });
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
auto SparseGradGroup<T, B, O>::finish(Context& ctx, index_t i) -> MatrixView<const C> {
  Member& m = members_.at(i);
  begin_warm_up(ctx);
  return m.named([&] { return m.finish(ctx, members_.rules()); });
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
double SparseGradGroup<T, B, O>::squared_norm(Context& ctx) {
  begin_warm_up(ctx);
  detail::start_reduces(ctx, members_.all(), members_.rules(), true);
  step_.measure_together(ctx, members_.all(), members_.rules());
  return members_.squared_norm(ctx);
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B> GroupReport
SparseGradGroup<T, B, O>::step(Context& ctx, const GroupStep& options) {
  const StepOptions step_options = options.for_optimizer();
  const double decay = require_decay<C>(options);
  require_layers("step");
  members_.require_one_selection();
  unread_.require_apart(members_.all());
  if (warming_up()) return warm_up(ctx);
  members_.prepare_missing(ctx);
  detail::start_reduces(ctx, members_.all(), members_.rules());
  const bool guarded = step_.select_together(ctx, members_.all(), members_.rules(), options.grad_scale);
  GroupReport report;
  if (members_.select(ctx, report) && (guarded || members_.stays_finite(ctx, step_options, report))) {
    detail::require_agreement(ctx, members_.all(), members_.rules());
    members_.require_step(ctx, step_options);
    members_.commit(ctx, report);
    step_.update(ctx, members_.all(), step_options, decay, report);
  }
  clear(ctx);
  return report;
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
auto SparseGradGroup<T, B, O>::state(Context& ctx) const -> State {
  if (warming_up())
    throw StateError(
        "state: the group warms up, and what it has collected is in no file; save after the warm-up");
  require_not_collecting("state", collecting());
  members_.require_idle("state");
  for (const Member& m : members_.all())
    if (m.optimizer == nullptr) members_.require_positions(m);
  return detail::group_state<C, B>(ctx, members_);
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B>
void SparseGradGroup<T, B, O>::restore(Context& ctx, const State& state) {
  check(ctx);
  require_host_counts("restore");
  require_not_collecting("restore", collecting() && !warming_up());
  members_.require_idle("restore");
  detail::require_group_state<C, B>(ctx, members_, state);
  for (Member& m : members_.all())
    members_.end_collection(ctx, m);
  detail::restore_group_state<C, B>(ctx, members_, state);
  detail::forget_gradients(members_.all(), members_.rules());
  collection_.reset();
  warmup_left_ = 0;
  this->reserve_again(ctx);
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B> GroupMemory SparseGradGroup<T, B, O>::memory(Context& ctx)
const {
  GroupMemory sum = members_.memory();
  sum.gradients += step_.bytes();
  if (collection_) sum.collection = collection_->bytes();
  sum.scratch = ctx.scratch().bytes();
  return sum;
}

template <class T, Backend B, class O>
requires CoreOptimizer<O, compute_t<T>, B> GroupReport SparseGradGroup<T, B, O>::warm_up(Context& ctx) {
  GroupReport report;
  report.warming_up = true;
  begin_warm_up(ctx);
  for (const Member& m : members_.all())
    report.without_gradient +=
        m.takes_part(members_.rules()) || m.progress == Member::Progress::collected ? 0 : 1;
  report.skipped = this->end_collecting_step(ctx) > 0;
  if (warmup_left_ > 1 && collection_->needs_gradients()) {
    --warmup_left_;
  } else {
    this->refresh(ctx);
  }
  return report;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
