// SparseGradGroup: the step of a whole model's layers, all or nothing, and the refresh of their bases.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "batched_step.hpp"
#include "rank_rule.hpp"
#include "sparse_adam.hpp"
#include "sparse_grad_linear.hpp"

namespace sparsegrad {

/// Which layers share a basis.
enum class BasisScope {
  kind,   ///< all layers of one kind, as in the paper
  layer,  ///< each layer its own
};

/// Rules of the two sides of a layer.
struct BasisRules {
  RankRule out = RankRule::full();
  RankRule in = RankRule::full();
};

/// How the bases of a group are fitted.
struct BasisRecipe {
  BasisScope scope = BasisScope::kind;
  std::function<BasisRules(const std::string& kind)> rules = [](const std::string&) { return BasisRules{}; };
  bool normalize = false;                         ///< every gradient enters with norm 1
  index_t gram_limit_bytes = index_t{512} << 20;  ///< a side
};

struct GroupOptions {
  double share = 0.012;  ///< of a layer's out * in entries to keep; the paper's 28 000 of 768 * 3072 is 1.2 %
  index_t entries = 0;   ///< when positive: kept entries of each layer, in place of the share
  SparseAdamOptions adam = {};  ///< its capacity is set by the next option
  /// Optimizer state for this many times the kept entries; 0: dense state. Not set: 4, or dense on a BatchedBackend, whose
  /// steps with a compact state must wait for the number of its new entries.
  std::optional<double> capacity_factor = std::nullopt;
  NonFinite non_finite = NonFinite::raise;
  bool share_gradient_memory =
      false;  ///< one gradient memory for all layers: call select(ctx, i) after the last
              ///< backward of layer i, before the next layer's
};

/// One optimizer step.
struct GroupStep {
  double learning_rate = 1e-4;
  double weight_decay = 0;
  double grad_scale = 1;
  double clip_norm =
      0;  ///< when positive: the gradient is scaled so that the norm of all cores is at most this
};

struct GroupReport {
  index_t kept = 0;      ///< entries of all sparse gradients
  double core_norm = 0;  ///< of all cores after grad_scale; computed for clipping only
  bool skipped = false;  ///< NaN or Inf under NonFinite::skip: nothing has changed
};

/// Bytes by purpose; shared bases are counted once.
struct GroupMemory {
  index_t gradients = 0;
  index_t sparse_gradients = 0;
  index_t optimizer = 0;
  index_t bases = 0;
  index_t collection = 0;
  index_t deltas = 0;
};

/// Layers (borrowed) with one SparseAdam each.
///
///     SparseGradGroup<float> group(ctx, options);
///     group.add(ctx, up, "up");  group.add(ctx, down, "down");
///     group.collect(ctx, recipe);            // phase 1: every step's gradients feed the accumulators
///     ... forward, backward, group.end_collecting_step(ctx) ...
///     group.refresh(ctx);                    // bases fitted, optimizer states made for them
///     ... forward, backward, group.step(ctx, {.learning_rate = 1e-4}) ...
template <class T, class Backend = DefaultBackend>
class SparseGradGroup {
 public:
  using C = compute_t<T>;  ///< of gradients, bases, moments and updates
  using Context = typename Backend::Context;
  using Layer = SparseGradLinear<T, Backend>;
  using Basis = TuckerBasis<C, Backend>;
  /// As SparseGradLinear::select's: fills the sparse gradient, whose capacity is the layer's `kept` entries.
  using Selector =
      std::function<SelectReport(Context&, MatrixView<C> core, SparseGradient<C, Backend>&, NonFinite)>;

  explicit SparseGradGroup(GroupOptions options = {}) : options_(std::move(options)) {
    if (options_.entries <= 0 && !(options_.share > 0 && options_.share <= 1)) {
      throw ValueError("share is " + std::to_string(options_.share) + ", expected 0 < share <= 1");
    }
    if (options_.capacity_factor && !(*options_.capacity_factor >= 0)) {
      throw ValueError("capacity_factor is " + std::to_string(*options_.capacity_factor) + ", expected >= 0");
    }
  }

  /// Adds a layer, which must outlive the group; returns its number. `kind` names the layers that share a basis under
  /// BasisScope::kind; they must have the same extents (checked by collect).
  index_t add(Context& ctx, Layer& layer, const std::string& kind) {
    require_host_counts("add");
    check(ctx);
    if constexpr (BatchedBackend<Backend>) guard_.resize(ctx, StepGuard::words);
    Member member;
    member.layer = &layer;
    member.kind = kind;
    prepare(ctx, member);
    members_.push_back(std::move(member));
    if (options_.share_gradient_memory) share_memory(ctx);
    return size() - 1;
  }

  index_t size() const { return static_cast<index_t>(members_.size()); }
  Layer& layer(index_t i) { return *at(i).layer; }
  const std::string& kind(index_t i) const { return at(i).kind; }
  /// Throws StateError during a collection before the first step, when there is none yet.
  SparseAdam<C, Backend>& optimizer(index_t i) {
    if (at(i).adam == nullptr)
      throw StateError("optimizer: layer " + std::to_string(i) + " gets it at refresh");
    return *at(i).adam;
  }
  /// The sparse gradient of the last selection.
  const SparseGradient<C, Backend>& gradient(index_t i) const { return at(i).gradient; }
  /// Entries that the layer keeps in a step.
  index_t kept(index_t i) const { return wanted(at(i)); }
  const GroupOptions& options() const { return options_; }

  /// Selects every layer's entries with this in place of TopK; null: TopK again. GroupOptions' entries (or share) then say
  /// how many there may be at most.
  void use_selector(Selector selector) { selector_ = std::move(selector); }

  /// After this no call of a step with up to `max_tokens` tokens allocates (but for Overflow::go_dense, once).
  void reserve(Context& ctx, index_t max_tokens) {
    for (Member& m : members_)
      m.layer->reserve(ctx, max_tokens, m.update == nullptr ? wanted(m) : m.update->capacity());
    if constexpr (BatchedBackend<Backend>) {
      index_t entries = 0;
      for (const Member& m : members_)
        entries += m.layer->basis()->rows() * m.layer->basis()->cols();
      ctx.scratch().reserve(Backend::template batch_scratch_bound<C>(ctx, size(), entries));
    }
  }

  /// Starts to feed every step's gradients to accumulators, as `recipe` shares them. Collecting again starts anew.
  /// Throws ShapeError when layers of one kind differ in extents under BasisScope::kind.
  void collect(Context& ctx, BasisRecipe recipe) {
    require_host_counts("collect");
    check(ctx);
    recipe_ = std::move(recipe);
    collections_.clear();
    for (Member& m : members_) {
      const std::string key =
          recipe_.scope == BasisScope::kind ? m.kind : std::to_string(&m - members_.data());
      auto [place, fresh] = collections_.try_emplace(key);
      Collection& shared = place->second;
      const index_t out = m.layer->out_extent();
      const index_t in = m.layer->in_extent();
      if (fresh) {
        shared.rules = recipe_.rules(m.kind);
        HosvdOptions options;
        options.out_side = shared.rules.out.needs_gradients();
        options.in_side = shared.rules.in.needs_gradients();
        options.normalize = recipe_.normalize;
        options.gram_limit_bytes = recipe_.gram_limit_bytes;
        shared.accumulator = std::make_unique<HosvdAccumulator<C, Backend>>(ctx, out, in, options);
      } else if (shared.accumulator->out() != out || shared.accumulator->in() != in) {
        const std::string found = shape_text(out, in);
        const std::string expected = shape_text(shared.accumulator->out(), shared.accumulator->in());
        collections_.clear();
        throw ShapeError("a layer of kind '" + m.kind + "' is " + found + ", another " + expected +
                         "; layers of one kind share a basis and must have the same extents");
      }
      m.collection = &shared;
    }
    for (Member& m : members_) {
      const bool needed =
          m.collection->rules.out.needs_gradients() || m.collection->rules.in.needs_gradients();
      m.layer->collect(ctx, needed ? m.collection->accumulator.get() : nullptr);
      // Nothing was learned yet, and the basis to come has states of another shape.
      if (m.adam != nullptr && m.adam->steps() == 0 && !m.selected) forget_state(m);
    }
    if (options_.share_gradient_memory) share_memory(ctx);
  }
  bool collecting() const { return !collections_.empty(); }

  /// Ends a collection without a fit: bases and moments stay as they are.
  void stop_collecting(Context& ctx) {
    for (Member& m : members_) {
      m.layer->collect(ctx, nullptr);
      m.collection = nullptr;
      if (m.adam == nullptr) prepare(ctx, m);
    }
    collections_.clear();
    if (options_.share_gradient_memory) share_memory(ctx);
  }

  /// Finishes a step of which only the gradients are wanted: hands them to the accumulators, then forgets them.
  void end_collecting_step(Context& ctx) {
    for (Member& m : members_) {
      m.layer->core(ctx);
      m.layer->clear(ctx);
    }
  }

  /// Fits the bases from what was collected, sets them and rebases the optimizers; ends the collection. Without
  /// `collect` before it, every basis is made by `recipe` from no gradients (random and fast sides).
  void refresh(Context& ctx, MomentsPolicy moments = MomentsPolicy::reset) {
    if (!collecting()) throw StateError("refresh: nothing was collected; call collect first");
    require_host_counts("refresh");
    check(ctx);
    for (auto& [key, shared] : collections_) {
      shared.basis = Basis::fit(ctx, *shared.accumulator, shared.rules.out, shared.rules.in);
    }
    for (Member& m : members_) {
      m.layer->collect(ctx, nullptr);
      set_basis(ctx, m, m.collection->basis, moments);
      m.collection = nullptr;
    }
    collections_.clear();
    if (options_.share_gradient_memory) share_memory(ctx);
  }

  /// Sets a basis of the caller's own for one layer.
  void set_basis(Context& ctx, index_t i, std::shared_ptr<const Basis> basis,
                 MomentsPolicy moments = MomentsPolicy::reset) {
    require_host_counts("set_basis");
    check(ctx);
    set_basis(ctx, at(i), std::move(basis), moments);
    if (options_.share_gradient_memory) share_memory(ctx);
  }

  /// Selects layer i's entries now; `step` then does not select it again.
  SelectReport select(Context& ctx, index_t i, bool need_norm = false) {
    return select(ctx, at(i), need_norm);
  }

  /// The step of all layers: select; check everything; then moments, weights, clear. When it throws, no weight and no
  /// optimizer state has changed; the gradients are kept, so that the caller can look at them. On a BatchedBackend
  /// layers that select by TopK do so together, and those with a dense state that update a weight through a basis (and
  /// have gradient memory of their own) take the rest of the step together (BatchedStep).
  ///
  /// Where all layers do both together, the host does not wait to learn of NaN or Inf: their step changes nothing, under
  /// `raise` those after it neither, and NonFiniteError comes from `check`, from Context::check, or from a later call of
  /// this one that finds it known already. The gradients are then gone, and `skipped` is never set.
  /// Throws NonFiniteError under NonFinite::raise, CapacityError under Overflow::error, ValueError for bad options.
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
    if constexpr (BatchedBackend<Backend>) {
      if (ctx.step_flag().raised()) check(ctx);
      select_together(ctx, clip);
    }
    for (Member& m : members_) {
      const SelectReport selected = m.selected ? SelectReport{} : select(ctx, m, clip);
      report.skipped = report.skipped || m.skipped || selected.skipped;
      report.kept += m.gradient.count();
      squares += m.squared_norm;
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
    for (Member& m : members_)
      m.adam->check(ctx, m.gradient);
    const StepOptions step_options{.learning_rate = options.learning_rate, .grad_scale = scale};
    if constexpr (BatchedBackend<Backend>) {
      together_.clear();
      for (Member& m : members_)
        if (steps_together(m)) together_.add(*m.layer, m.gradient, *m.adam, counter(m));
      if (!counters_.empty()) require_all_together();
      together_.update(ctx, step_options, decay, guarded_ ? StepGuard{guard_.data()} : StepGuard{});
    }
    for (Member& m : members_) {
      if (steps_together(m)) continue;
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
    if constexpr (!BatchedBackend<Backend>) {
      return 0;
    } else {
      if (guard_.empty()) return 0;
      std::uint32_t words[StepGuard::words];
      Backend::template download<std::uint32_t>(ctx, guard_.data(), words, StepGuard::words);
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
  void count_on_device(Context& ctx) requires BatchedBackend<Backend> {
    check(ctx);
    std::vector<std::int64_t> counts;
    for (Member& m : members_)
      counts.push_back(m.adam == nullptr ? 0 : m.adam->steps());
    counters_.resize(ctx, size());
    Backend::template upload<std::int64_t>(ctx, counts.data(), counters_.data(), size());
  }
  /// Brings the optimizers' counts up to date with the backend's memory and ends count_on_device.
  void count_on_host(Context& ctx) requires BatchedBackend<Backend> {
    if (counters_.empty()) return;
    std::vector<std::int64_t> counts(members_.size());
    Backend::template download<std::int64_t>(ctx, counters_.data(), counts.data(), counters_.size());
    for (std::size_t i = 0; i < members_.size(); ++i)
      if (members_[i].adam != nullptr) members_[i].adam->set_steps(counts[i]);
    counters_.release();
  }

  /// Forgets all gradients and selections.
  void clear(Context& ctx) {
    for (Member& m : members_) {
      m.layer->clear(ctx);
      m.selected = false;
      m.skipped = false;
      m.squared_norm = 0;
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
      if (first_time(m.layer->basis().get())) sum.bases += m.layer->basis()->bytes();
    }
    sum.gradients += shared_gradient_.bytes();
    for (const auto& [key, shared] : collections_)
      sum.collection += shared.accumulator->bytes();
    return sum;
  }

 private:
  struct Collection {
    BasisRules rules;
    std::unique_ptr<HosvdAccumulator<C, Backend>> accumulator;
    std::shared_ptr<const Basis> basis;
  };
  struct Member {
    Layer* layer = nullptr;
    std::string kind;
    SparseGradient<C, Backend> gradient;
    std::shared_ptr<SparseGradient<C, Backend>> update;  ///< shared by layers of the same core
    std::unique_ptr<SparseAdam<C, Backend>> adam;
    Collection* collection = nullptr;
    bool selected = false;
    bool skipped = false;
    double squared_norm = 0;
  };

  Member& at(index_t i) { return members_.at(static_cast<std::size_t>(i)); }
  const Member& at(index_t i) const { return members_.at(static_cast<std::size_t>(i)); }

  /// Entries to keep of the layer's present core.
  index_t wanted(const Member& m) const {
    const index_t asked =
        options_.entries > 0 ? options_.entries
                             : TopK::fraction(options_.share, m.layer->out_extent() * m.layer->in_extent()).k;
    return std::min(asked, m.layer->basis()->rows() * m.layer->basis()->cols());
  }

  static void forget_state(Member& m) {
    m.gradient = {};
    m.update = nullptr;
    m.adam = nullptr;
  }

  /// Sparse gradient, update and optimizer for the layer's present core.
  void prepare(Context& ctx, Member& m) {
    const index_t rows = m.layer->basis()->rows();
    const index_t cols = m.layer->basis()->cols();
    const index_t k = wanted(m);
    forget_state(m);  // before the new state takes its memory
    m.gradient = SparseGradient<C, Backend>(ctx, rows, cols, k);
    SparseAdamOptions adam = options_.adam;
    const double room =
        options_.capacity_factor.value_or(BatchedBackend<Backend> ? 0 : 4) * static_cast<double>(k);
    adam.capacity = room < static_cast<double>(rows * cols) ? static_cast<index_t>(room) : 0;
    m.adam = std::make_unique<SparseAdam<C, Backend>>(ctx, rows, cols, adam);
    const index_t entries = m.adam->update_capacity(k);
    for (const Member& other : members_) {
      if (&other != &m && other.update != nullptr && other.update->rows() == rows &&
          other.update->cols() == cols && other.update->capacity() == entries) {
        m.update = other.update;
      }
    }
    if (m.update == nullptr)
      m.update = std::make_shared<SparseGradient<C, Backend>>(ctx, rows, cols, entries);
  }

  void set_basis(Context& ctx, Member& m, std::shared_ptr<const Basis> basis, MomentsPolicy moments) {
    const std::shared_ptr<const Basis> before = m.layer->basis();
    m.layer->set_basis(ctx, std::move(basis));
    const Basis& now = *m.layer->basis();
    if (moments == MomentsPolicy::transport && m.adam != nullptr && before->rows() == now.rows() &&
        before->cols() == now.cols()) {
      m.adam->rebase(ctx, *before, now, moments);
    } else {
      prepare(ctx, m);
    }
  }

  void share_memory(Context& ctx) {
    index_t most = 0;
    for (const Member& m : members_)
      most = std::max(most, m.layer->gradient_count());
    if (most > shared_gradient_.size()) shared_gradient_.resize(ctx, most);
    for (const Member& m : members_)
      m.layer->borrow_gradient_memory(ctx, shared_gradient_.data());
  }

  /// Selects the layers that are not yet selected, where TopK does it.
  void select_together(Context& ctx, bool need_norms) {
    guarded_ = false;
    if (selector_ || options_.share_gradient_memory) return;
    together_.clear();
    chosen_.clear();
    for (Member& m : members_) {
      if (m.selected || m.layer->has_fixed_support()) continue;
      if (m.adam == nullptr) prepare(ctx, m);
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
    if (bad >= 0) {
      Member& m = *chosen_[static_cast<std::size_t>(bad)];
      SelectReport report;
      detail::check_finite<C, Backend>(ctx, m.gradient, options_.non_finite, report);
      m.skipped = report.skipped;
    }
    for (Member* m : chosen_) {
      if (need_norms) m->squared_norm = Backend::template squared_norm<C>(ctx, m->layer->core(ctx));
      m->selected = true;
    }
  }

  bool steps_together(const Member& m) const {
    if constexpr (!BatchedBackend<Backend>) return false;
    return !options_.share_gradient_memory && BatchedStep<T, Backend>::fits(*m.layer, m.gradient, *m.adam);
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
      if (!steps_together(m)) {
        throw StateError(
            "step: layer " + std::to_string(&m - members_.data()) +
            " cannot count on the device: it needs a dense optimizer state, a basis, a weight that is "
            "updated itself, and gradient memory of its own");
      }
    }
  }

  SelectReport select(Context& ctx, Member& m, bool need_norm) {
    if (m.adam == nullptr) prepare(ctx, m);  // a step before the refresh that the collection is for
    if (need_norm) m.squared_norm = Backend::template squared_norm<C>(ctx, m.layer->core(ctx));
    const SelectReport report =
        selector_ ? m.layer->select(ctx, selector_, m.gradient, options_.non_finite)
                  : m.layer->select(ctx, TopK{m.gradient.capacity()}, m.gradient, options_.non_finite);
    m.selected = true;
    m.skipped = report.skipped;
    if (options_.share_gradient_memory) m.layer->clear(ctx);
    return report;
  }

  GroupOptions options_;
  Selector selector_;
  std::vector<Member> members_;
  BasisRecipe recipe_;
  std::map<std::string, Collection> collections_;
  Buffer<C, Backend> shared_gradient_;
  BatchedStep<T, Backend> together_;  ///< of a BatchedBackend
  std::vector<Member*> chosen_;
  Buffer<std::int64_t, Backend> counters_;  ///< steps of each layer, while they count on the device
  Buffer<std::uint32_t, Backend> guard_;    ///< StepGuard of the steps that do not wait
  bool guarded_ = false;                    ///< the present step is one
};

}  // namespace sparsegrad
