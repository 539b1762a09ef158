// GroupBases: the weight matrices of a group, and the phases in which their bases are found.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "basis_collection.hpp"
#include "batched_step.hpp"
#include "group_member.hpp"
#include "group_members.hpp"
#include "group_options.hpp"
#include "group_reduce.hpp"
#include "sequential_step.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Weight matrices with the bases of their cores: the part of SparseGradGroup that adds members,
/// collects their gradients and fits their bases. Used as its base class alone.
template <class T, Backend B, class O>
class GroupBases {
 public:
  using C = compute_t<T>;  ///< of gradients, bases, moments and updates
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// The optimizer of each core.
  using Optimizer = O;
  /// The options' type.
  using Options = BasicGroupOptions<typename O::Options>;

  GroupBases(const GroupBases&) = delete;
  GroupBases& operator=(const GroupBases&) = delete;

  /// Adds a layer; returns its number. `kind` names the layers that share a basis under
  /// BasisScope::kind; they must have the same extents (checked when the collection begins). Throws
  /// ValueError when the layer, or memory of its weight, is in the group already; StateError while
  /// collecting, or, where gradient memory is shared or a warm-up comes, when the layer holds a
  /// gradient or the memory must grow in another's turn.
  ///
  /// A layer whose weight is kept elsewhere (TrainedWeight::elsewhere), and it alone, comes with a
  /// function that takes its updates; not where all layers step together (BatchedStep), nor with an
  /// optimizer that changes the weight itself. Throws ValueError otherwise.
  template <class L>
  requires GroupLayer<L, T, B> index_t add(Context& ctx, L& layer, const std::string& kind,
                                           ApplyUpdate<C, B> apply = {}) {
    require_open(ctx, "add");
    require_updates(layer.trained_weight().empty(), static_cast<bool>(apply),
                    steps_together || RemainderOptimizer<O, C, B>);
    Member member;
    member.apply = std::move(apply);
    member.take(ctx, layer);
    members_.require_apart("add", member.source, *member.weight);
    members_.join(ctx, layer.gradient(), warming_up());
    return append(ctx, std::move(member), kind);
  }

  /// Adds a weight W [out, in] (or [in, out], by option) whose gradient dW the engine makes itself;
  /// returns its number. Both stay the engine's. `kind` as in `add`. Throws ShapeError when W is
  /// empty, or dW's shape another; ValueError when W has memory in common with another weight of the
  /// group; StateError as `add`.
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

  /// From now on weight i, of add_weight, lies at another address: an engine has moved its
  /// parameters. Nothing is copied: W must be there. A dW that stands in memory (WeightOptions) is
  /// given anew, or from now on. (A layer has a `rebind` of its own, which the group follows. A step
  /// that was captured in a CUDA graph goes on with the old address.) Throws ShapeError when the
  /// extents are others; ValueError as add_weight, or when such a dW is not given; StateError for a
  /// layer of `add`, or for a new dW while a gradient is held.
  void rebind(index_t i, MatrixView<T> weight,
              ConstMatrixView<C> gradient = {}) requires(!is_low_precision<T>) {
    rebind(i, TrainedWeight<T>(weight, members_.at(i).weight->layout), gradient);
  }
  /// The same for a W of 16 bits and its master.
  void rebind(index_t i, MatrixView<T> weight, MatrixView<C> master,
              ConstMatrixView<C> gradient = {}) requires(is_low_precision<T>) {
    rebind(i, TrainedWeight<T>(weight, master, members_.at(i).weight->layout), gradient);
  }

  /// Takes layer i out of the group; the layers behind it move up by one number. It keeps its basis
  /// and goes on as if it had never been in a group; what the optimizer and a selector knew of it is
  /// gone. Throws StateError while it holds a gradient or gradients are collected.
  void remove(Context& ctx, index_t i);

  /// The gradient of weight i in this step: dW of the weight's shape, or its transpose by `layout`,
  /// in C, bfloat16 or half. Borrowed until the step (or clear); nothing is copied. A second one in
  /// a step replaces the first. Throws ShapeError; ValueError when dW overlaps the weight, which a
  /// step changes; StateError for a layer of `add`, which makes its own, or when the core of one
  /// given before was already asked for.
  void set_gradient(index_t i, ConstMatrixView<C> dw, std::optional<WeightLayout> layout = {}) {
    set_gradient(i, {dw, layout.value_or(members_.at(i).weight->layout)});
  }
  /// The same with a dW in bfloat16.
  void set_gradient(index_t i, MatrixView<const bfloat16> dw, std::optional<WeightLayout> layout = {}) {
    set_gradient(i, {dw, layout.value_or(members_.at(i).weight->layout)});
  }
  /// The same with a dW in float16.
  void set_gradient(index_t i, MatrixView<const float16> dw, std::optional<WeightLayout> layout = {}) {
    set_gradient(i, {dw, layout.value_or(members_.at(i).weight->layout)});
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
  /// Throws StateError when there is none yet: during a collection before the first step, or for a
  /// core of more than 2^31 - 1 entries.
  O& optimizer(index_t i) {
    Member& m = members_.at(i);
    if (m.optimizer == nullptr)
      throw StateError("optimizer: " + m.title() + " gets it at refresh, or by set_basis");
    return *m.optimizer;
  }
  /// The sparse gradient of the last selection.
  const SparseGradient<C, B>& gradient(index_t i) const { return members_.at(i).gradient; }
  /// Entries that the layer keeps in a step.
  index_t kept(index_t i) const { return members_.wanted(members_.at(i), members_.at(i).basis()); }
  /// The options that it was made with.
  const Options& options() const { return members_.options(); }
  /// Starts to feed every step's gradients to accumulators, as `recipe` shares them. Collecting
  /// again starts anew. Throws ShapeError when layers of one kind differ in extents under
  /// BasisScope::kind, StateError while a layer holds a gradient or can form none; what
  /// recipe.sides throws.
  void collect(Context& ctx, const BasisRecipe& recipe);
  /// Whether gradients are being collected for bases.
  bool collecting() const { return collection_.has_value(); }
  /// Whether steps only collect: the first warmup_steps.
  bool warming_up() const { return warmup_left_ > 0; }

  /// Ends a collection without a fit: bases and moments stay as they are. Throws StateError while a
  /// layer holds a gradient.
  void stop_collecting(Context& ctx);

  /// Finishes a step of which only the gradients are wanted: hands them to the accumulators, then
  /// forgets them. Layers that have ended their step before it take part again where they had
  /// another backward since: that is one gradient more. NaN and Inf: NonFiniteError under
  /// NonFinite::raise, else that layer's gradient is not added. Returns how many were not. Throws
  /// StateError without `collect`, outside of a warm-up.
  index_t end_collecting_step(Context& ctx);
  /// The same for layer i alone, whose gradient memory is free then; end_collecting_step(ctx) ends
  /// the step of all.
  void end_collecting_step(Context& ctx, index_t i);

  /// Fits the bases from what was collected, sets them and rebases the optimizers; ends the
  /// collection. (Recipes that need no gradients want a `collect` as well, but no step after it.)
  /// Returns what the rebase of each layer did, zeros under MomentsPolicy::reset. Throws StateError
  /// without `collect`, while a layer holds a gradient, or when gradients were needed and none
  /// came; what TuckerBasis::fit throws.
  std::vector<RebaseReport> refresh(Context& ctx, MomentsPolicy moments = MomentsPolicy::reset);

  /// Sets a basis of the caller's own for one layer; null: none. Returns what the rebase of its
  /// optimizer did, zeros under MomentsPolicy::reset. Throws ShapeError; StateError while the layer
  /// holds a gradient, or a selection that no step has taken.
  RebaseReport set_basis(Context& ctx, index_t i, std::shared_ptr<const Basis> basis,
                         MomentsPolicy moments = MomentsPolicy::reset);

  /// Waits for the steps that did not wait (BatchedStep): returns how many of them changed nothing,
  /// for NaN or Inf, since the last call. Throws NonFiniteError where the policy is `raise` and
  /// there were any. To be called before the optimizers' states are saved; whatever changes bases
  /// or layers calls it.
  index_t check(Context& ctx);

  /// Forgets all gradients and selections.
  void clear(Context&);

 protected:
  /// One weight matrix with its state.
  using Member = GroupMember<T, B, O>;
  /// How far a member is in the step.
  using Progress = typename Member::Progress;
  /// Whether the members' steps are taken together.
  static constexpr bool steps_together =
      BatchedBackend<B> && BatchedOptimizer<O, C, B> && !RemainderOptimizer<O, C, B>;
  /// What takes the members' steps.
  using Step = std::conditional_t<steps_together, BatchedStep<T, B, O>, SequentialStep<T, B, O>>;

  /// Throws ValueError for options out of range.
  explicit GroupBases(Options options);
  ~GroupBases();

  /// The warm-up's collection begins with the first gradient that is asked for; the sources have
  /// formed whole gradients since they were added.
  void begin_warm_up(Context& ctx);
  /// The same for end_collecting_step, which would drop the gradients outside of a collection.
  void begin_collecting_step(Context& ctx);
  /// Takes the memory that later steps with up to `max_tokens` tokens need, in the present bases.
  void reserve_steps(Context& ctx, index_t max_tokens);
  /// The same after a change of bases, where it was asked for before.
  void reserve_again(Context& ctx);
  /// Throws StateError, naming the caller, for a group without layers.
  void require_layers(const char* call) const {
    if (size() == 0)
      throw StateError(std::string(call) + ": the group is empty; call add or add_weight first");
  }
  /// Throws StateError, naming the caller, where `collects`.
  void require_not_collecting(const char* call, bool collects) const {
    if (collects)
      throw StateError(std::string(call) +
                       ": gradients are being collected; call refresh or stop_collecting first");
  }
  /// Throws StateError, naming the caller, while steps are counted on the device.
  void require_host_counts(const char* call) const {
    if (step_.counts_on_device())
      throw StateError(std::string(call) + ": steps are counted on the device; call count_on_host first");
  }

  index_t warmup_left_ = 0;                          ///< steps of the warm-up still to come
  std::optional<index_t> reserved_tokens_;           ///< of the last `reserve`
  GroupMembers<T, B, O> members_;                    ///< the weight matrices
  std::optional<BasisCollection<C, B>> collection_;  ///< sums of the gradients while they are collected
  Step step_;                                        ///< takes the steps

 private:
  void require_open(Context& ctx, const char* call);
  index_t append(Context& ctx, Member member, const std::string& kind);
  index_t add_weight(Context& ctx, const TrainedWeight<T>& weight, const std::string& kind,
                     const WeightOptions<C>& options);
  void set_gradient(index_t i, const WeightGradientView<C>& dw);
  void rebind(index_t i, const TrainedWeight<T>& moved, ConstMatrixView<C> gradient);
};

template <class T, Backend B, class O>
void GroupBases<T, B, O>::remove(Context& ctx, index_t i) {
  require_open(ctx, "remove");
  members_.at(i).require_idle("remove");
  members_.remove(ctx, i);
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::collect(Context& ctx, const BasisRecipe& recipe) {
  require_host_counts("collect");
  require_layers("collect");
  check(ctx);
  members_.require_idle("collect");
  collection_ = members_.start_collection(ctx, recipe);
  members_.form_weight_gradients(ctx);
  warmup_left_ = 0;
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::stop_collecting(Context& ctx) {
  members_.require_idle("stop_collecting");
  for (Member& m : members_.all()) {
    members_.end_collection(ctx, m);
    if (m.optimizer == nullptr && members_.has_positions(m)) members_.prepare(ctx, m);
  }
  collection_.reset();
  warmup_left_ = 0;
}

template <class T, Backend B, class O>
index_t GroupBases<T, B, O>::end_collecting_step(Context& ctx) {
  begin_collecting_step(ctx);
  members_.require_one_selection();
  detail::start_reduces(ctx, members_.all(), members_.rules());
  for (Member& m : members_.all()) {
    // A layer that ended its step may have had another backward since: one more gradient.
    const bool ended = m.is_selected() || (m.progress == Progress::collected && !m.source->accumulating());
    if (ended) continue;
    // Gradients that take turns in one memory make room for each other; others stand until all
    // are taken.
    m.named([&] {
      if (members_.rules().clears_selected) {
        m.collect(ctx, members_.rules());
      } else {
        m.finish_collecting(ctx, members_.rules());
      }
    });
  }
  index_t refused = 0;
  for (const Member& m : members_.all())
    refused += m.refused ? 1 : 0;
  clear(ctx);
  return refused;
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::end_collecting_step(Context& ctx, index_t i) {
  Member& m = members_.at(i);
  begin_collecting_step(ctx);
  m.named([&] { m.collect(ctx, members_.rules()); });
}

template <class T, Backend B, class O>
std::vector<RebaseReport> GroupBases<T, B, O>::refresh(Context& ctx, MomentsPolicy moments) {
  if (!collecting()) throw StateError("refresh: nothing was collected; call collect first");
  require_host_counts("refresh");
  check(ctx);
  members_.require_idle("refresh");
  for (const Member& m : members_.all())
    m.source->require_new_basis("refresh");
  members_.fit(ctx, *collection_);
  std::vector<RebaseReport> reports;
  for (Member& m : members_.all()) {
    members_.end_collection(ctx, m);
    reports.push_back(members_.set_basis(ctx, m, collection_->basis(m.number), moments));
  }
  collection_.reset();
  warmup_left_ = 0;
  members_.shrink_gradient_memory(ctx);
  reserve_again(ctx);
  return reports;
}

template <class T, Backend B, class O>
RebaseReport GroupBases<T, B, O>::set_basis(Context& ctx, index_t i, std::shared_ptr<const Basis> basis,
                                            MomentsPolicy moments) {
  require_host_counts("set_basis");
  check(ctx);
  const RebaseReport report = members_.set_basis(ctx, members_.at(i), std::move(basis), moments);
  reserve_again(ctx);
  return report;
}

template <class T, Backend B, class O>
index_t GroupBases<T, B, O>::check(Context& ctx) {
  return step_.check(ctx, members_.all());
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::clear(Context&) {
  detail::clear_members(members_.all(), members_.rules());
}

template <class T, Backend B, class O>
GroupBases<T, B, O>::GroupBases(Options options)
    : warmup_left_(options.warmup_steps), members_(std::move(options)) {
  if (warmup_left_ < 0)
    throw ValueError("warmup_steps is " + std::to_string(warmup_left_) + ", expected >= 0");
  if (warmup_left_ > 0) require_recipe(this->options().recipe);
  if (const index_t limit = members_.options().recipe.gram_limit_bytes; limit < 0)
    throw ValueError("gram_limit_bytes is " + std::to_string(limit) + ", expected >= 0");
}

template <class T, Backend B, class O>
GroupBases<T, B, O>::~GroupBases() = default;

template <class T, Backend B, class O>
void GroupBases<T, B, O>::begin_warm_up(Context& ctx) {
  if (warming_up() && !collecting()) collection_ = members_.start_collection(ctx, options().recipe);
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::begin_collecting_step(Context& ctx) {
  begin_warm_up(ctx);
  if (!collecting())
    throw StateError("end_collecting_step: no gradients are being collected; call collect first");
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::reserve_steps(Context& ctx, index_t max_tokens) {
  members_.reserve(ctx, max_tokens);
  step_.reserve(ctx, members_.all());
  reserved_tokens_ = max_tokens;
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::reserve_again(Context& ctx) {
  if (reserved_tokens_ && !collecting() && members_.all_have_optimizers())
    reserve_steps(ctx, *reserved_tokens_);
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::require_open(Context& ctx, const char* call) {
  require_host_counts(call);
  require_not_collecting(call, collecting());
  check(ctx);
}

template <class T, Backend B, class O>
index_t GroupBases<T, B, O>::append(Context& ctx, Member member, const std::string& kind) {
  step_.attach(ctx);
  return members_.add(ctx, std::move(member), kind, warming_up());
}

template <class T, Backend B, class O>
index_t GroupBases<T, B, O>::add_weight(Context& ctx, const TrainedWeight<T>& weight, const std::string& kind,
                                        const WeightOptions<C>& options) {
  require_open(ctx, "add_weight");
  members_.require_apart("add_weight", nullptr, weight);
  Member member;
  member.own_weight = std::make_unique<TrainedWeight<T>>(weight);
  member.weight = member.own_weight.get();
  member.rotations =
      options.rotations ? available_rotations<C, B>(ctx, *options.rotations) : default_rotations<T, B>(ctx);
  member.cost_model =
      options.cost_model ? *options.cost_model : default_cost_model<T, B>(ctx, member.rotations);
  member.given = std::make_unique<GivenGradient<C, B>>(ctx, weight.out_extent(), weight.in_extent(),
                                                       member.cost_model, member.rotations);
  member.source = member.given.get();
  if (!options.gradient.empty()) member.given->keep({options.gradient, options.layout});
  members_.join(ctx, *member.given, warming_up());
  return append(ctx, std::move(member), kind);
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::set_gradient(index_t i, const WeightGradientView<C>& dw) {
  Member& m = members_.at(i);
  if (m.given == nullptr) {
    throw StateError("set_gradient: " + m.title() +
                     " makes its own gradient (add); only a weight of add_weight is given one");
  }
  m.named([&] {
    std::visit([&](const auto& matrix) { require_apart("the weight", m.weight->master, "dW", matrix); },
               dw.matrix);
    m.given->set(dw);
  });
}

template <class T, Backend B, class O>
void GroupBases<T, B, O>::rebind(index_t i, const TrainedWeight<T>& moved, ConstMatrixView<C> gradient) {
  Member& m = members_.at(i);
  if (m.given == nullptr)
    throw StateError("rebind: " + m.title() + " was added by `add`; call the layer's own rebind");
  m.named([&] {
    require_shape("weight", moved.weight.rows, moved.weight.cols, m.weight->weight.rows,
                  m.weight->weight.cols, "extents of the weight before");
    members_.require_apart("rebind", nullptr, moved, i);
    if (gradient.empty() && m.given->keeps()) {
      throw ValueError(
          "rebind: the gradient stands in memory that add_weight was given; give its place as well");
    }
    if (!gradient.empty()) m.given->keep({gradient, moved.layout});
    m.own_weight->rebind(moved);
  });
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
