// SparseGradGroup: the step of a whole model's layers, all or nothing, and the refresh of their bases.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "batched_step.hpp"
#include "extras/error_feedback.hpp"
#include "side_recipe.hpp"
#include "sparse_adam.hpp"
#include "sparse_grad_linear.hpp"

namespace sparsegrad {

/// Which layers share a basis.
enum class BasisScope {
  kind,   ///< all layers of one kind, as in the paper
  layer,  ///< each layer its own
};

/// Rules of the two sides of a layer.
struct SideRecipes {
  SideRecipe out = SideRecipe::full();
  SideRecipe in = SideRecipe::full();
};

/// How the bases of a group are fitted.
struct BasisRecipe {
  BasisScope scope = BasisScope::kind;
  /// Asked by `collect`, once for each basis to come, with the kind of its (first) layer.
  std::function<SideRecipes(const std::string& kind)> rules = [](const std::string&) {
    return SideRecipes{};
  };
  bool normalize = false;                         ///< every gradient enters with norm 1
  index_t gram_limit_bytes = index_t{512} << 20;  ///< a side
};

struct GroupOptions {
  double density =
      0.012;            ///< of a layer's out * in entries to keep; the paper's 28 000 of 768 * 3072 is 1.2 %
  index_t entries = 0;  ///< when positive: kept entries of each layer, in place of the share
  SparseAdamOptions optimizer = {};  ///< its capacity is set by the next option
  /// Optimizer state for this many times the kept entries; 0: dense state. Not set: 4, or dense on a BatchedBackend, whose
  /// steps with a compact state must wait for the number of its new entries.
  std::optional<double> capacity_factor = std::nullopt;
  NonFinite non_finite = NonFinite::raise;
  /// One gradient memory for all layers, which take turns in it: finish layer i by select(ctx, i), or while only
  /// collecting by end_collecting_step(ctx, i), after its backward of the last micro-batch and before the next layer's
  /// first backward, which else throws StateError.
  bool share_gradient_memory = false;
};

/// One optimizer step.
struct GroupStep {
  double learning_rate = 1e-4;
  double weight_decay = 0;
  double grad_scale = 1;
  /// When positive: all gradients are scaled by min(1, clip_norm / norm), norm that of all cores (of a fixed support's
  /// values) together after grad_scale, before a selector adds anything. Layers selected before the step must have been
  /// so with need_norm.
  double clip_norm = 0;
};

struct GroupReport {
  index_t kept = 0;      ///< entries of all sparse gradients
  index_t left_out = 0;  ///< layers without a gradient in this step: nothing of theirs has changed
  double core_norm = 0;  ///< of all cores after grad_scale; computed for clipping only
  /// NaN or Inf under NonFinite::skip: no weight and no optimizer state has changed, the gradients are forgotten, kept is
  /// 0. While collecting, the accumulators have the layers' finite gradients.
  bool skipped = false;
};

/// Bytes by purpose; shared bases are counted once.
struct GroupMemory {
  index_t gradients = 0;
  index_t sparse_gradients = 0;
  index_t optimizer = 0;
  index_t bases = 0;
  index_t collection = 0;
  index_t deltas = 0;
  index_t residuals = 0;  ///< of ErrorFeedback
};

/// What a group needs, beside weights and options, to go on as if it had not stopped: see SparseGradGroup::state.
template <class C, Backend B>
struct GroupState {
  struct Layer {
    std::string kind;
    std::shared_ptr<const TuckerBasis<C, B>> basis;  ///< one object for the layers that share it
    Plan plan;
    SparseAdamState<C> adam;
    std::optional<SparseGradient<C, B>> delta;  ///< of a layer that keeps one
    std::vector<stored_index_t> support;        ///< positions of a fixed support; empty: none
    std::vector<C> residual;                    ///< of ErrorFeedback, [r, c] row by row; empty: 0
  };
  std::vector<Layer> layers;
};

/// Layers with one SparseAdam each. The layers are borrowed and must live while the group is used. When the group ends
/// first they go on as they are, no longer collecting, and a shared gradient memory stays theirs.
///
///     SparseGradGroup<float> group(options);
///     group.add(ctx, up, "up");  group.add(ctx, down, "down");
///     group.collect(ctx, recipe);            // phase 1: every step's gradients feed the accumulators
///     ... forward, backward, group.end_collecting_step(ctx) ...
///     group.refresh(ctx);                    // bases fitted, optimizer states made for them
///     ... forward, backward, group.step(ctx, {.learning_rate = 1e-4}) ...
///
/// What a call refuses it refuses before anything has changed. (Where memory runs out, in a step without `reserve` or in
/// a change of bases, only the calls that say so have changed nothing.)
template <class T, Backend B = DefaultBackend>
class SparseGradGroup {
 public:
  using C = compute_t<T>;  ///< of gradients, bases, moments and updates
  using Context = typename B::Context;
  using Layer = SparseGradLinear<T, B>;
  using Basis = TuckerBasis<C, B>;
  using Feedback = ErrorFeedback<C, B>;
  using Reduce = typename Layer::Reduce;
  using State = GroupState<C, B>;
  /// As SparseGradLinear::select's: fills the sparse gradient, whose capacity is the layer's `kept` entries.
  using Selector =
      std::function<SelectReport(Context&, MatrixView<C> core, SparseGradient<C, B>&, NonFinite)>;

  explicit SparseGradGroup(GroupOptions options = {}) : options_(std::move(options)) {
    if (options_.entries <= 0 && !(options_.density > 0 && options_.density <= 1)) {
      throw ValueError("density is " + std::to_string(options_.density) + ", expected 0 < density <= 1");
    }
    if (options_.capacity_factor && !(*options_.capacity_factor >= 0)) {
      throw ValueError("capacity_factor is " + std::to_string(*options_.capacity_factor) + ", expected >= 0");
    }
    if (options_.share_gradient_memory) shared_gradient_ = std::make_shared<GradientMemory<C, B>>();
  }

  /// Adds a layer; returns its number. `kind` names the layers that share a basis under BasisScope::kind; they must have
  /// the same extents (checked by collect). Throws StateError while collecting, or, where gradient memory is shared, when
  /// the layer holds a gradient or the memory must grow in another's turn.
  index_t add(Context& ctx, Layer& layer, const std::string& kind) {
    require_host_counts("add");
    if (collecting())
      throw StateError("add: gradients are being collected; call refresh or stop_collecting first");
    check(ctx);
    if constexpr (BatchedBackend<B>) guard_.resize(ctx, StepGuard::words);
    Member member;
    member.layer = &layer;
    member.kind = kind;
    prepare(ctx, member);
    if (shared_gradient_ != nullptr) layer.borrow_gradient_memory(ctx, shared_gradient_);
    members_.push_back(std::move(member));
    return size() - 1;
  }

  index_t size() const { return static_cast<index_t>(members_.size()); }
  /// These throw ValueError for a number that no layer has.
  Layer& layer(index_t i) { return *at(i).layer; }
  const std::string& kind(index_t i) const { return at(i).kind; }
  /// Throws StateError during a collection before the first step, when there is none yet.
  SparseAdam<C, B>& optimizer(index_t i) {
    if (at(i).adam == nullptr)
      throw StateError("optimizer: layer " + std::to_string(i) + " gets it at refresh");
    return *at(i).adam;
  }
  /// The sparse gradient of the last selection.
  const SparseGradient<C, B>& gradient(index_t i) const { return at(i).gradient; }
  /// Entries that the layer keeps in a step.
  index_t kept(index_t i) const { return wanted(*at(i).layer, *at(i).layer->basis()); }
  const GroupOptions& options() const { return options_; }

  /// Selects every layer's entries with this in place of TopK; null: TopK again. GroupOptions' entries (or share) then say
  /// how many there may be at most.
  void use_selector(Selector selector) { selector_ = std::move(selector); }
  /// The same for one layer; null: that of all layers again.
  void use_selector(index_t i, Selector selector) {
    Member& m = at(i);
    m.selector = std::move(selector);
    m.feedback = nullptr;
  }
  void use_selector(index_t i, std::nullptr_t) { use_selector(i, Selector()); }
  /// Error feedback for one layer, by an object of its own: its residual is kept after every step that was taken, and
  /// reset when the layer's basis changes. Throws StateError with share_gradient_memory, where the core is gone before
  /// the step is taken; ValueError when another layer has this object.
  void use_selector(Context& ctx, index_t i, std::shared_ptr<Feedback> feedback) {
    Member& m = at(i);
    if (feedback != nullptr && shared_gradient_ != nullptr) {
      throw StateError(
          "use_selector: error feedback needs each layer's core until the step is taken; it excludes "
          "share_gradient_memory");
    }
    for (const Member& other : members_) {
      if (feedback != nullptr && &other != &m && other.feedback == feedback)
        throw ValueError("use_selector: layer " + std::to_string(&other - members_.data()) +
                         " uses this ErrorFeedback, whose residual is one layer's own");
    }
    if (feedback != nullptr) feedback->reserve(ctx, m.layer->basis()->rows(), m.layer->basis()->cols());
    m.selector = nullptr;
    m.feedback = std::move(feedback);
  }

  /// For data-parallel training: `reduce(ctx, G)` makes G the sum over all processes, in place (MPI_Allreduce, NCCL),
  /// once for each layer and step, when the layer is selected or its collecting step ends: the core [r, c], the values of
  /// a fixed support [1, k], or, while collecting, the whole weight gradient [out, in], before the accumulator sees it. So
  /// all processes fit the same bases and take the same steps. All must finish the same layers in the same order; layers
  /// without a gradient of their own take part with 0. Null: none. Throws StateError while a layer holds a gradient.
  void use_reduce(Reduce reduce) {
    require_idle("use_reduce");
    reduce_ = std::move(reduce);
  }

  /// After this no call of a step with up to `max_tokens` tokens allocates (but for Overflow::go_dense, once).
  void reserve(Context& ctx, index_t max_tokens) {
    for (Member& m : members_)
      m.layer->reserve(ctx, max_tokens,
                       m.update == nullptr ? wanted(*m.layer, *m.layer->basis()) : m.update->capacity());
    if constexpr (BatchedBackend<B>) {
      index_t entries = 0;
      for (const Member& m : members_)
        entries += m.layer->basis()->rows() * m.layer->basis()->cols();
      ctx.scratch().reserve(B::template batch_scratch_bound<C>(ctx, size(), entries));
    }
  }

  /// Starts to feed every step's gradients to accumulators, as `recipe` shares them. Collecting again starts anew.
  /// Throws ShapeError when layers of one kind differ in extents under BasisScope::kind, StateError while a layer holds a
  /// gradient or, where gradients are needed, has a fixed support; what recipe.rules throws. Nothing has changed then.
  void collect(Context& ctx, const BasisRecipe& recipe) {
    require_host_counts("collect");
    check(ctx);
    require_idle("collect");
    std::map<std::string, Collection> fresh;
    std::vector<Collection*> of;
    for (const Member& m : members_) {
      const std::string key =
          recipe.scope == BasisScope::kind ? m.kind : std::to_string(&m - members_.data());
      auto [place, first] = fresh.try_emplace(key);
      Collection& shared = place->second;
      const index_t out = m.layer->out_extent();
      const index_t in = m.layer->in_extent();
      if (first) {
        shared.rules = recipe.rules(m.kind);
        HosvdOptions options;
        options.out_side = shared.rules.out.needs_gradients();
        options.in_side = shared.rules.in.needs_gradients();
        options.normalize = recipe.normalize;
        options.gram_limit_bytes = recipe.gram_limit_bytes;
        shared.accumulator = std::make_shared<Accumulator>(ctx, out, in, options);
      } else if (shared.accumulator->out_extent() != out || shared.accumulator->in_extent() != in) {
        throw ShapeError("a layer of kind '" + m.kind + "' is " + shape_text(out, in) + ", another " +
                         shape_text(shared.accumulator->out_extent(), shared.accumulator->in_extent()) +
                         "; layers of one kind share a basis and must have the same extents");
      }
      m.layer->require_collectable("collect", shared.needs_gradients());
      of.push_back(&shared);
    }
    collections_ = std::move(fresh);
    for (std::size_t i = 0; i < members_.size(); ++i) {
      Member& m = members_[i];
      m.collection = of[i];
      m.layer->collect(ctx, of[i]->needs_gradients() ? of[i]->accumulator : nullptr);
      // Nothing was learned yet, and the basis to come has states of another shape.
      if (m.adam != nullptr && m.adam->steps() == 0) forget_state(m);
    }
  }
  bool collecting() const { return !collections_.empty(); }

  /// Ends a collection without a fit: bases and moments stay as they are. Throws StateError while a layer holds a
  /// gradient; nothing has changed then.
  void stop_collecting(Context& ctx) {
    require_idle("stop_collecting");
    for (Member& m : members_) {
      m.layer->collect(ctx, nullptr);
      m.collection = nullptr;
      m.progress = Progress::gathering;
      if (m.adam == nullptr) prepare(ctx, m);
    }
    collections_.clear();
  }

  /// Finishes a step of which only the gradients are wanted: hands them to the accumulators, then forgets them. NaN and
  /// Inf: NonFiniteError under NonFinite::raise, else that layer's gradient is left out.
  void end_collecting_step(Context& ctx) {
    for (Member& m : members_)
      if (m.progress == Progress::gathering || m.progress == Progress::finished) end_collecting_step(ctx, m);
    clear(ctx);
  }
  /// The same for layer i alone, whose gradient memory is free then; end_collecting_step(ctx) ends the step of all.
  void end_collecting_step(Context& ctx, index_t i) { end_collecting_step(ctx, at(i)); }

  /// Fits the bases from what was collected, sets them and rebases the optimizers; ends the collection. (Rules that need
  /// no gradients want a `collect` as well, but no step after it.) Returns what the rebase of each layer did, zeros under
  /// MomentsPolicy::reset. Throws StateError without `collect`, while a layer holds a gradient or an unmerged delta, or
  /// when gradients were needed and none came; what TuckerBasis::fit throws. Nothing has changed then.
  std::vector<RebaseReport> refresh(Context& ctx, MomentsPolicy moments = MomentsPolicy::reset) {
    if (!collecting()) throw StateError("refresh: nothing was collected; call collect first");
    require_host_counts("refresh");
    check(ctx);
    require_idle("refresh");
    for (const Member& m : members_)
      m.layer->require_rebasable("refresh");
    for (auto& [key, shared] : collections_) {
      shared.basis = Basis::fit(ctx, *shared.accumulator, shared.rules.out, shared.rules.in);
    }
    std::vector<RebaseReport> reports;
    for (Member& m : members_) {
      m.layer->collect(ctx, nullptr);
      reports.push_back(set_basis(ctx, m, m.collection->basis, moments));
      m.collection = nullptr;
      m.progress = Progress::gathering;
    }
    collections_.clear();
    shrink_gradient_memory(ctx);
    return reports;
  }

  /// Sets a basis of the caller's own for one layer; null: none. Returns what the rebase of its optimizer did, zeros
  /// under MomentsPolicy::reset. Throws ShapeError; StateError while the layer holds a gradient, a selection that no step
  /// has taken, or an unmerged delta. Nothing has changed then.
  RebaseReport set_basis(Context& ctx, index_t i, std::shared_ptr<const Basis> basis,
                         MomentsPolicy moments = MomentsPolicy::reset) {
    require_host_counts("set_basis");
    check(ctx);
    return set_basis(ctx, at(i), std::move(basis), moments);
  }

  /// Selects layer i's entries now; `step` then does not select it again. Without a gradient it keeps nothing and the
  /// layer is left out of the step. `need_norm`: also computes the norm that a step with clip_norm wants of layers that
  /// were selected before it. Throws what the selector throws, and StateError, with share_gradient_memory, for a second
  /// selection in one step.
  SelectReport select(Context& ctx, index_t i, bool need_norm = false) {
    Member& m = at(i);
    require_one_selection(m);
    if (!takes_part(m)) return {};
    return select(ctx, m, need_norm);
  }

  /// The finished gradient of layer i, after `use_reduce`'s function: SparseGradLinear::gradient.
  MatrixView<C> finish(Context& ctx, index_t i) { return finish(ctx, at(i)); }

  /// The step of all layers: select; check everything; then moments, weights, clear. A layer without a gradient since the
  /// last clear is left out, as if it were not in the group. When it throws, no weight and no optimizer state has changed;
  /// the gradients are kept, so that the caller can look at them. On a BatchedBackend
  /// layers that select by TopK do so together, and those with a dense state that update a weight through a basis (and
  /// have gradient memory of their own) take the rest of the step together (BatchedStep).
  ///
  /// Where all layers do both together, the host does not wait to learn of NaN or Inf: their step changes nothing, under
  /// `raise` those after it neither, and NonFiniteError comes from `check`, from Context::check, or from a later call of
  /// this one that finds it known already. The gradients are then gone, and `skipped` is never set.
  /// Throws NonFiniteError under NonFinite::raise, CapacityError under Overflow::error, ValueError for bad options,
  /// StateError for a merged adapter, a norm that select did not compute (clip_norm), or backward after select in shared
  /// gradient memory.
  GroupReport step(Context& ctx, const GroupStep& options) {
    if (!(options.learning_rate >= 0) || !std::isfinite(options.learning_rate)) {
      throw ValueError("learning_rate is " + std::to_string(options.learning_rate) +
                       ", expected a finite number >= 0");
    }
    const double decay = options.learning_rate * options.weight_decay;
    if (!(decay >= 0 && decay <= 1)) {
      throw ValueError("learning_rate * weight_decay is " + std::to_string(decay) +
                       ", expected it in [0, 1]");
    }
    if (!std::isfinite(options.grad_scale)) {
      throw ValueError("grad_scale is " + std::to_string(options.grad_scale) + ", expected a finite number");
    }
    GroupReport report;
    double squares = 0;
    const bool clip = options.clip_norm > 0;
    for (const Member& m : members_)
      require_one_selection(m);
    if constexpr (BatchedBackend<B>) {
      if (ctx.step_flag().raised()) check(ctx);
      select_together(ctx, clip);
    }
    for (Member& m : members_) {
      if (!takes_part(m)) {
        ++report.left_out;
        continue;
      }
      if (!selected(m)) select(ctx, m, clip);
      report.skipped = report.skipped || m.progress == Progress::skipped;
      report.kept += m.gradient.count();
      if (clip && !m.squared_norm && m.progress != Progress::skipped) {
        throw StateError("step: clip_norm needs the norm of layer " + number(m) +
                         ", which was selected without; call select(ctx, " + number(m) + ", true)");
      }
      squares += m.squared_norm.value_or(0);
    }
    if (report.skipped) {
      clear(ctx);
      report.kept = 0;
      return report;
    }
    double scale = options.grad_scale;
    if (clip) {
      report.core_norm = std::sqrt(squares) * std::abs(scale);
      if (report.core_norm > options.clip_norm) scale *= options.clip_norm / report.core_norm;
    }
    for (Member& m : members_) {
      if (!selected(m)) continue;
      m.layer->require_updatable("step");
      m.adam->check(ctx, m.gradient);
      if (m.update->capacity() < m.adam->update_capacity(m.gradient.count())) {
        throw StateError("step: the update of layer " + number(m) + " has room for " +
                         std::to_string(m.update->capacity()) + " entries, its optimizer may change " +
                         std::to_string(m.adam->update_capacity(m.gradient.count())) +
                         "; its state was changed from outside");
      }
    }
    for (Member& m : members_) {
      if (!selected(m)) continue;
      m.adam->make_room(ctx, m.gradient);
      if (m.feedback != nullptr && !m.layer->has_fixed_support())
        m.feedback->keep(ctx, m.layer->gradient(ctx), m.gradient);
    }
    const StepOptions step_options{.learning_rate = options.learning_rate, .grad_scale = scale};
    if constexpr (BatchedBackend<B>) {
      together_.clear();
      for (Member& m : members_)
        if (selected(m) && steps_together(m)) together_.add(*m.layer, m.gradient, *m.adam, counter(m));
      if (!counters_.empty()) require_all_together();
      together_.update(ctx, step_options, decay, guarded_ ? StepGuard{guard_.data()} : StepGuard{});
    }
    for (Member& m : members_) {
      if (!selected(m) || steps_together(m)) continue;
      m.adam->step(ctx, m.gradient, step_options, *m.update);
      m.layer->apply(ctx, *m.update, decay);
    }
    clear(ctx);
    return report;
  }

  /// Waits for the steps that did not wait (see `step`). Returns how many of them changed nothing, for NaN or Inf, since the
  /// last call; they then do not count as the optimizers' steps either. Throws NonFiniteError where the policy is `raise`
  /// and there were any. To be called before the optimizers' states are saved; whatever changes bases or layers calls it.
  index_t check(Context& ctx) {
    if constexpr (!BatchedBackend<B>) {
      return 0;
    } else {
      if (guard_.empty()) return 0;
      std::uint32_t words[StepGuard::words];
      B::template download<std::uint32_t>(ctx, guard_.data(), words, StepGuard::words);
      const auto left_out = static_cast<index_t>(StepGuard{words}.left_out());
      if (left_out > 0) {
        for (Member& m : members_)
          if (m.adam != nullptr) m.adam->set_steps(std::max<std::int64_t>(0, m.adam->steps() - left_out));
        guard_.resize(ctx, StepGuard::words);
      }
      ctx.check();
      return left_out;
    }
  }

  /// From now on the steps are counted in the backend's memory as well, from what the optimizers have counted: a step
  /// that was captured in a CUDA graph goes on with the bias correction at every replay, where it would repeat that of
  /// the captured step. Its learning rate stays that of the capture. The optimizers' own counts stand still in a replay
  /// until count_on_host, before which no basis can change. Every layer must step together with the others (see `step`,
  /// which throws StateError).
  void count_on_device(Context& ctx) requires BatchedBackend<B> {
    check(ctx);
    std::vector<std::int64_t> counts;
    for (Member& m : members_)
      counts.push_back(m.adam == nullptr ? 0 : m.adam->steps());
    counters_.resize(ctx, size());
    B::template upload<std::int64_t>(ctx, counts.data(), counters_.data(), size());
  }
  /// Brings the optimizers' counts up to date with the backend's memory and ends count_on_device.
  void count_on_host(Context& ctx) requires BatchedBackend<B> {
    if (counters_.empty()) return;
    std::vector<std::int64_t> counts(members_.size());
    B::template download<std::int64_t>(ctx, counters_.data(), counts.data(), counters_.size());
    for (std::size_t i = 0; i < members_.size(); ++i)
      if (members_[i].adam != nullptr) members_[i].adam->set_steps(counts[i]);
    counters_.release();
  }

  /// Forgets all gradients and selections.
  void clear(Context& ctx) {
    for (Member& m : members_) {
      m.layer->clear(ctx);
      m.progress = Progress::gathering;
      m.squared_norm.reset();
    }
  }

  /// All that a checkpoint must hold beside the weights (and the caller's own options): bases, plans, optimizer states,
  /// deltas, fixed supports, residuals; arrays in host memory. On a BatchedBackend after `check`, which corrects the counts
  /// of steps that changed nothing. Throws StateError while gradients are collected or held, or for a merged adapter.
  State state(Context& ctx) const {
    require_restorable("state");
    State state;
    for (const Member& m : members_) {
      if (m.layer->merged())
        throw StateError("state: the adapter of layer " + number(m) + " is merged; unmerge it first");
      typename State::Layer saved;
      saved.kind = m.kind;
      saved.basis = m.layer->basis();
      saved.plan = m.layer->plan();
      saved.adam = m.adam->state(ctx);
      if (m.layer->keeps_delta()) saved.delta = m.layer->export_delta(ctx);
      saved.support = positions(ctx, m.layer->support());
      if (m.feedback != nullptr) saved.residual = m.feedback->host_residual(ctx);
      state.layers.push_back(std::move(saved));
    }
    return state;
  }

  /// Takes a state over, into a group with the same options and layers (and ErrorFeedback where it had some), whose
  /// weights the caller restores. The plans stay until a basis changes or set_plan is called. Throws ValueError, naming
  /// layer and difference, or StateError as `state`; nothing has changed then.
  void restore(Context& ctx, const State& state) {
    check(ctx);
    require_host_counts("restore");
    require_restorable("restore");
    if (state.layers.size() != members_.size()) {
      throw ValueError("the saved state has " + std::to_string(state.layers.size()) + " layers, expected " +
                       std::to_string(members_.size()));
    }
    for (std::size_t i = 0; i < members_.size(); ++i) {
      try {
        require_state(ctx, members_[i], state.layers[i]);
      } catch (const Error& error) {
        throw ValueError("layer " + std::to_string(i) + ": " + error.what());
      }
    }
    for (std::size_t i = 0; i < members_.size(); ++i) {
      Member& m = members_[i];
      const typename State::Layer& saved = state.layers[i];
      if (m.layer->keeps_delta()) m.layer->reset_delta(ctx);
      m.layer->set_basis(ctx, saved.basis, saved.plan);
      if (!saved.support.empty()) m.layer->set_support(ctx, support(ctx, *saved.basis, saved.support));
      prepare(ctx, m);
      m.adam->restore(ctx, saved.adam);
      make_gradients(ctx, m);
      if (saved.delta) m.layer->set_delta(ctx, *saved.delta);
      if (m.feedback == nullptr) continue;
      m.feedback->reset();
      m.feedback->reserve(ctx, saved.basis->rows(), saved.basis->cols());
      if (!saved.residual.empty())
        m.feedback->restore(ctx, saved.basis->rows(), saved.basis->cols(), saved.residual);
    }
  }

  GroupMemory memory() const {
    GroupMemory sum;
    std::vector<const void*> seen;
    const auto first_time = [&](const void* p) {
      if (std::find(seen.begin(), seen.end(), p) != seen.end()) return false;
      seen.push_back(p);
      return true;
    };
    for (const Member& m : members_) {
      sum.gradients += m.layer->gradient_bytes();
      sum.deltas += m.layer->delta_bytes();
      sum.sparse_gradients += m.gradient.bytes();
      if (m.update != nullptr && first_time(m.update.get())) sum.sparse_gradients += m.update->bytes();
      if (m.adam != nullptr) sum.optimizer += m.adam->bytes();
      if (m.feedback != nullptr) sum.residuals += m.feedback->bytes();
      if (first_time(m.layer->basis().get())) sum.bases += m.layer->basis()->bytes();
    }
    if (shared_gradient_ != nullptr) sum.gradients += shared_gradient_->bytes();
    for (const auto& [key, shared] : collections_)
      sum.collection += shared.accumulator->bytes();
    return sum;
  }

 private:
  using Accumulator = HosvdAccumulator<C, B>;

  struct Collection {
    SideRecipes rules;
    std::shared_ptr<Accumulator> accumulator;
    std::shared_ptr<const Basis> basis;

    bool needs_gradients() const { return rules.out.needs_gradients() || rules.in.needs_gradients(); }
  };
  /// How far a layer is in the present step.
  enum class Progress {
    gathering,  ///< backward may come; also a layer without any gradient
    finished,   ///< the gradient is complete and reduced
    selected,   ///< the sparse gradient is there for `step` to take
    skipped,    ///< NaN or Inf under NonFinite::skip
    collected,  ///< only the accumulator has it, by end_collecting_step(ctx, i)
  };
  struct Member {
    Layer* layer = nullptr;
    std::string kind;
    SparseGradient<C, B> gradient;
    std::shared_ptr<SparseGradient<C, B>> update;  ///< shared by layers of the same core
    std::unique_ptr<SparseAdam<C, B>> adam;        ///< null until the first collection's end
    Collection* collection = nullptr;              ///< null unless collecting
    Selector selector;                             ///< null: the group's
    std::shared_ptr<Feedback> feedback;            ///< in place of a selector
    Progress progress = Progress::gathering;
    std::optional<double> squared_norm;  ///< of the gradient, where select computed it
  };

  Member& at(index_t i) { return members_[place(i)]; }
  const Member& at(index_t i) const { return members_[place(i)]; }
  std::size_t place(index_t i) const {
    if (i < 0 || i >= size()) {
      throw ValueError("layer " + std::to_string(i) + ", expected 0 <= layer < " + std::to_string(size()));
    }
    return static_cast<std::size_t>(i);
  }
  std::string number(const Member& m) const { return std::to_string(&m - members_.data()); }

  static bool selected(const Member& m) {
    return m.progress == Progress::selected || m.progress == Progress::skipped;
  }
  /// Whether the layer has a gradient in this step, or must see to that of other processes.
  bool takes_part(const Member& m) const {
    if (m.progress == Progress::collected) return m.layer->accumulating();
    return m.progress != Progress::gathering || m.layer->accumulating() || reduce_;
  }

  /// Entries to keep of the layer's core in this basis.
  index_t wanted(const Layer& layer, const Basis& basis) const {
    const index_t asked = options_.entries > 0
                              ? options_.entries
                              : TopK::fraction(options_.density, layer.out_extent() * layer.in_extent()).k;
    return std::min(asked, basis.rows() * basis.cols());
  }
  /// The optimizer's options for the layer's core in this basis.
  SparseAdamOptions adam_options(const Layer& layer, const Basis& basis) const {
    SparseAdamOptions adam = options_.optimizer;
    const double room = options_.capacity_factor.value_or(BatchedBackend<B> ? 0 : 4) *
                        static_cast<double>(wanted(layer, basis));
    adam.capacity = room < static_cast<double>(basis.rows() * basis.cols()) ? static_cast<index_t>(room) : 0;
    return adam;
  }

  static void forget_state(Member& m) {
    m.gradient = {};
    m.update = nullptr;
    m.adam = nullptr;
  }

  /// Sparse gradient, update and optimizer for the layer's present core.
  void prepare(Context& ctx, Member& m) {
    const Basis& basis = *m.layer->basis();
    forget_state(m);  // before the new state takes its memory
    m.adam =
        std::make_unique<SparseAdam<C, B>>(ctx, basis.rows(), basis.cols(), adam_options(*m.layer, basis));
    make_gradients(ctx, m);
  }
  /// Sparse gradient and update for the layer's present core and optimizer.
  void make_gradients(Context& ctx, Member& m) {
    const index_t rows = m.adam->rows();
    const index_t cols = m.adam->cols();
    const index_t k = wanted(*m.layer, *m.layer->basis());
    const index_t entries = m.adam->update_capacity(k);
    m.gradient = {};
    m.update = nullptr;
    m.gradient = SparseGradient<C, B>(ctx, rows, cols, k);
    for (const Member& other : members_) {
      if (&other != &m && other.update != nullptr && other.update->rows() == rows &&
          other.update->cols() == cols && other.update->capacity() == entries) {
        m.update = other.update;
      }
    }
    if (m.update == nullptr) m.update = std::make_shared<SparseGradient<C, B>>(ctx, rows, cols, entries);
  }

  RebaseReport set_basis(Context& ctx, Member& m, std::shared_ptr<const Basis> basis, MomentsPolicy moments) {
    require_idle("set_basis", m);
    m.layer->require_rebasable("set_basis");
    const index_t out = m.layer->out_extent();
    const index_t in = m.layer->in_extent();
    if (basis == nullptr) basis = Basis::identity(out, in);
    require_shape("basis", basis->out_extent(), basis->in_extent(), out, in, "out x in of the layer");
    const bool moved = moments == MomentsPolicy::transport && m.adam != nullptr;
    RebaseReport report;
    if (moved) {
      report =
          m.adam->rebase(ctx, *m.layer->basis(), *basis, moments, adam_options(*m.layer, *basis).capacity);
    }
    m.layer->set_basis(ctx, std::move(basis));
    if (moved) {
      make_gradients(ctx, m);
    } else {
      prepare(ctx, m);
    }
    if (m.feedback != nullptr) {
      m.feedback->reset();
      m.feedback->reserve(ctx, m.layer->basis()->rows(), m.layer->basis()->cols());
    }
    return report;
  }

  /// Whole gradients, which a collection needs, take more memory than cores.
  void shrink_gradient_memory(Context& ctx) {
    if (shared_gradient_ == nullptr) return;
    index_t most = 0;
    for (const Member& m : members_)
      if (!m.layer->has_fixed_support()) most = std::max(most, m.layer->gradient_count());
    shared_gradient_->shrink(ctx, most);
  }

  void require_idle(const char* call) const {
    for (const Member& m : members_)
      require_idle(call, m);
  }
  void require_idle(const char* call, const Member& m) const {
    const bool idle = m.progress == Progress::gathering || m.progress == Progress::collected;
    if (m.layer->accumulating() || !idle) {
      throw StateError(std::string(call) + ": layer " + number(m) +
                       " holds a gradient of this step; call step or clear first");
    }
  }
  void require_restorable(const char* call) const {
    if (collecting())
      throw StateError(std::string(call) +
                       ": gradients are being collected; call refresh or stop_collecting first");
    require_idle(call);
  }
  /// With shared memory the gradient of a selected layer is gone, and another would take its place unseen.
  void require_one_selection(const Member& m) const {
    if (shared_gradient_ == nullptr || !selected(m) || !m.layer->accumulating()) return;
    throw StateError("layer " + number(m) +
                     " had a backward after its selection; with share_gradient_memory select after the last "
                     "micro-batch's backward");
  }
  void require_state(Context& ctx, const Member& m, const typename State::Layer& saved) const {
    if (saved.kind != m.kind)
      throw ValueError("the saved kind is '" + saved.kind + "', expected '" + m.kind + "'");
    if (saved.basis == nullptr) throw ValueError("the saved basis is null");
    const Basis& basis = *saved.basis;
    const index_t rows = basis.rows();
    const index_t cols = basis.cols();
    require_shape("the saved basis", basis.out_extent(), basis.in_extent(), m.layer->out_extent(),
                  m.layer->in_extent(), "out x in of the layer");
    SparseAdam<C, B>(ctx, rows, cols, adam_options(*m.layer, basis)).restore(ctx, saved.adam);
    if (saved.delta.has_value() != m.layer->keeps_delta()) {
      throw ValueError(saved.delta ? "the saved state has a delta, and the layer keeps none"
                                   : "the saved state has no delta, and the layer keeps one");
    }
    if (saved.delta) {
      require_shape("the saved delta", saved.delta->rows(), saved.delta->cols(), rows, cols,
                    "rows x cols of the core");
    }
    if (!saved.support.empty()) (void)support(ctx, basis, saved.support);
    if (saved.residual.empty()) return;
    if (m.feedback == nullptr)
      throw ValueError("the saved state has a residual; call use_selector with an ErrorFeedback first");
    if (static_cast<index_t>(saved.residual.size()) != rows * cols) {
      throw ValueError("the saved residual has " + std::to_string(saved.residual.size()) +
                       " numbers, expected " + std::to_string(rows * cols));
    }
  }

  static std::vector<stored_index_t> positions(Context& ctx, const SparseGradient<C, B>& support) {
    std::vector<stored_index_t> host(static_cast<std::size_t>(support.count()));
    if (support.dense()) {
      std::iota(host.begin(), host.end(), 0);
    } else if (!host.empty()) {
      B::template download<stored_index_t>(ctx, support.indices(), host.data(), support.count());
    }
    return host;
  }
  static SparseGradient<C, B> support(Context& ctx, const Basis& basis,
                                      const std::vector<stored_index_t>& positions) {
    SparseGradient<C, B> made(ctx, basis.rows(), basis.cols(),
                              std::min(static_cast<index_t>(positions.size()), basis.rows() * basis.cols()));
    made.assign(ctx, positions, std::vector<C>(positions.size()));
    return made;
  }

  /// Selects the layers that are not yet selected, where TopK does it.
  void select_together(Context& ctx, bool need_norms) {
    guarded_ = false;
    if (selector_ || options_.share_gradient_memory) return;
    together_.clear();
    chosen_.clear();
    for (Member& m : members_) {
      if (selected(m) || !takes_part(m) || m.selector || m.feedback != nullptr ||
          m.layer->has_fixed_support())
        continue;
      if (m.adam == nullptr) prepare(ctx, m);
      finish(ctx, m);
      together_.add(*m.layer, m.gradient, *m.adam);
      chosen_.push_back(&m);
    }
    if (together_.empty()) return;
    together_.select(ctx);
    const auto fits = [&](const Member& m) { return steps_together(m); };
    guarded_ = options_.non_finite != NonFinite::propagate && chosen_.size() == members_.size() &&
               std::all_of(members_.begin(), members_.end(), fits);
    if (guarded_) together_.guard(ctx, options_.non_finite == NonFinite::raise, StepGuard{guard_.data()});
    const bool look = options_.non_finite != NonFinite::propagate && !guarded_;
    const index_t bad = look ? together_.first_nonfinite(ctx) : -1;
    SelectReport report;
    if (bad >= 0) {
      detail::check_finite<C, B>(ctx, chosen_[static_cast<std::size_t>(bad)]->gradient, options_.non_finite,
                                 report);
    }
    for (Member* m : chosen_) {
      if (need_norms) m->squared_norm = B::template squared_norm<C>(ctx, m->layer->core(ctx));
      m->progress = Progress::selected;
    }
    if (report.skipped) chosen_[static_cast<std::size_t>(bad)]->progress = Progress::skipped;
  }

  bool steps_together(const Member& m) const {
    if constexpr (!BatchedBackend<B>) return false;
    return !options_.share_gradient_memory && BatchedStep<T, B>::fits(*m.layer, m.gradient, *m.adam);
  }
  std::int64_t* counter(const Member& m) {
    return counters_.empty() ? nullptr : counters_.data() + (&m - members_.data());
  }
  void require_host_counts(const char* call) const {
    if (!counters_.empty())
      throw StateError(std::string(call) + ": steps are counted on the device; call count_on_host first");
  }
  void require_all_together() const {
    for (const Member& m : members_) {
      if (selected(m) && !steps_together(m)) {
        throw StateError(
            "step: layer " + number(m) +
            " cannot count on the device: it needs a dense optimizer state, a basis, a weight that is "
            "updated itself, and gradient memory of its own");
      }
    }
  }

  MatrixView<C> finish(Context& ctx, Member& m) {
    const bool first = m.progress == Progress::gathering || m.progress == Progress::collected;
    if (reduce_ && m.layer->finished() && first) {
      throw StateError(
          "layer " + number(m) +
          " was finished (core, gradient, select) before it could be reduced; call the group's finish");
    }
    const MatrixView<C> gradient = m.layer->gradient(ctx, options_.non_finite, reduce_);
    if (first) m.progress = Progress::finished;
    return gradient;
  }

  SelectReport select(Context& ctx, Member& m, bool need_norm) {
    if (m.adam == nullptr) prepare(ctx, m);  // a step before the refresh that the collection is for
    const MatrixView<C> gradient = finish(ctx, m);
    m.squared_norm.reset();
    if (need_norm) m.squared_norm = B::template squared_norm<C>(ctx, gradient);
    const NonFinite policy = options_.non_finite;
    const Selector& selector = m.selector ? m.selector : selector_;
    SelectReport report;
    if (m.feedback != nullptr) {
      report = m.layer->select(ctx, *m.feedback, m.gradient, policy);
    } else if (selector) {
      report = m.layer->select(ctx, selector, m.gradient, policy);
    } else {
      report = m.layer->select(ctx, TopK{m.gradient.capacity()}, m.gradient, policy);
    }
    m.progress = report.skipped ? Progress::skipped : Progress::selected;
    if (options_.share_gradient_memory) m.layer->clear(ctx);
    return report;
  }

  void end_collecting_step(Context& ctx, Member& m) {
    if (m.layer->accumulating() || reduce_) finish(ctx, m);
    m.layer->clear(ctx);
    m.progress = Progress::collected;
  }

  GroupOptions options_;
  Selector selector_;
  Reduce reduce_;
  std::vector<Member> members_;
  std::map<std::string, Collection> collections_;
  std::shared_ptr<GradientMemory<C, B>> shared_gradient_;  ///< null unless shared
  BatchedStep<T, B> together_;                             ///< of a BatchedBackend
  std::vector<Member*> chosen_;
  Buffer<std::int64_t, B> counters_;  ///< steps of each layer, while they count on the device
  Buffer<std::uint32_t, B> guard_;    ///< StepGuard of the steps that do not wait
  bool guarded_ = false;              ///< the present step is one
};

}  // namespace sparsegrad
