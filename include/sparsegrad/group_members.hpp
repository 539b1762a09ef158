// GroupMembers: the matrices of a group with their optimizers, and what is done to each of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "basis_collection.hpp"
#include "core/number.hpp"
#include "gradient_memory.hpp"
#include "group_member.hpp"
#include "group_options.hpp"
#include "top_k.hpp"
#include "weight_update.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The members of a SparseGradGroup: makes and keeps the optimizer, sparse gradient and update of
/// each, and finds them by number. The group's calls are about phases and the step; those about one
/// member end here.
template <class T, Backend B, class O>
class GroupMembers {
 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// One weight matrix of the group.
  using Member = GroupMember<T, B, O>;
  /// The options' type.
  using Options = BasicGroupOptions<typename O::Options>;

  /// Throws ValueError unless 0 < density <= 1 (or entries > 0), entries >= 0, and capacity_factor >=
  /// 0.
  explicit GroupMembers(Options options) : options_(std::move(options)) {
    if (options_.entries < 0) {
      throw ValueError("entries is " + std::to_string(options_.entries) +
                       ", expected >= 0 (0: by the density)");
    }
    if (options_.entries == 0) (void)TopK::fraction(options_.density, 1);
    if (const auto& factor = options_.capacity_factor; factor && !(is_finite(*factor) && *factor >= 0)) {
      throw ValueError("capacity_factor is " + number_text(*factor) + ", expected >= 0");
    }
    rules_.non_finite = options_.non_finite;
    rules_.clears_selected = options_.share_gradient_memory;
    if (options_.share_gradient_memory) shared_ = std::make_shared<GradientMemory<C, B>>();
  }

  /// The options that it was made with.
  const Options& options() const { return options_; }
  /// What the members have in common.
  MemberRules<C, B>& rules() { return rules_; }
  /// What the members have in common.
  const MemberRules<C, B>& rules() const { return rules_; }
  /// Number of members.
  index_t size() const { return static_cast<index_t>(list_.size()); }
  /// The members in the order in which they joined. Throws StateError, naming it, where a layer is gone.
  std::span<Member> all() { return living<Member>(list_); }
  /// The same, to read.
  std::span<const Member> all() const { return living<const Member>(list_); }
  /// Member i. Throws ValueError for a number that no member has, StateError where its layer is gone.
  Member& at(index_t i) { return list_[place(i)]; }
  /// The same, to read.
  const Member& at(index_t i) const { return list_[place(i)]; }

  /// Appends a member, with optimizer and gradients unless `later`, or it needs a basis first;
  /// returns its number.
  index_t add(Context& ctx, Member member, const std::string& kind, bool later) {
    member.number = size();
    member.kind = kind;
    if (!later && has_positions(member)) prepare(ctx, member);
    member.source->set_name(member.title());
    list_.push_back(std::move(member));
    return size() - 1;
  }
  /// Takes member i out; those behind it move up by one number. Its source has its own memory then.
  void remove(Context& ctx, index_t i) {
    const std::size_t at = place(i);
    CoreSource<C, B>& source = *list_[at].source;
    if (source.forms_weight_gradient()) source.form_weight_gradient(ctx, false);
    if (shared_ != nullptr) source.share_memory(ctx, nullptr);
    source.set_name({});
    list_.erase(list_.begin() + i);  // and with it the source, of a weight
    for (std::size_t e = at; e < list_.size(); ++e) {
      list_[e].number = static_cast<index_t>(e);
      forget(list_[e]);
      list_[e].source->set_name(list_[e].title());
    }
    shrink_gradient_memory(ctx);
  }
  /// Throws ValueError, naming the member, when one but `except` has this source, or a weight in the
  /// same memory: each step would change it twice.
  void require_apart(const char* call, const CoreSource<C, B>* source, const TrainedWeight<T>& weight,
                     index_t except = -1) const {
    for (const Member& m : all()) {
      if (m.number == except) continue;
      if (m.source == source)
        throw ValueError(std::string(call) + ": it is " + m.title() + " of this group already");
      if (m.weight->overlaps(weight)) {
        throw ValueError(std::string(call) + ": the weight has memory in common with that of " + m.title() +
                         ", which a step would change twice; give a tied weight to the group once, "
                         "with the sum of its gradients");
      }
    }
  }
  /// Readies a new member's source: it forms dW where a warm-up comes, and uses the shared gradient
  /// memory where there is one and it can take turns. When it refuses, it is as it was.
  void join(Context& ctx, CoreSource<C, B>& source, bool warming_up) {
    const bool formed = source.forms_weight_gradient();
    if (warming_up) source.form_weight_gradient(ctx, true);
    if (shared_ == nullptr) return;
    try {
      source.share_memory(ctx, shared_);
    } catch (...) {
      if (warming_up) source.form_weight_gradient(ctx, formed);
      throw;
    }
  }

  /// Gives member i a selector of its own. Throws StateError when the selector needs cores until the step and gradient
  /// memory is shared, ValueError when another member has the same one.
  void use_selector(Context& ctx, index_t i, AnySelector<C, B> selector) {
    Member& m = at(i);
    if (selector.wants_commit() && shared_ != nullptr) {
      throw StateError(
          "use_selector: this selector needs each core until the step is taken; it excludes "
          "share_gradient_memory");
    }
    for (const Member& other : all()) {
      if (selector.identity() != nullptr && &other != &m && other.selector.identity() == selector.identity())
        throw ValueError("use_selector: " + other.title() +
                         " uses this selector, whose state belongs to one weight");
    }
    if (const index_t most = wanted(m, m.basis()); selector.entries() > most) {
      throw ValueError("use_selector: " + m.title() + " keeps " + std::to_string(most) +
                       " entries, the selector " + std::to_string(selector.entries()) +
                       "; raise the group's entries (or density)");
    }
    if (has_positions(m)) selector.basis_changed(ctx, m.basis().rows(), m.basis().cols());
    m.selector = std::move(selector);
  }

  /// Whether 32-bit positions reach all of the member's core. Where they do not, it has no optimizer
  /// before it has another basis.
  static bool has_positions(const Member& m) {
    return m.basis().rows() <= (std::numeric_limits<stored_index_t>::max)() / m.basis().cols();
  }
  /// Entries to keep of a core in this basis; of a source that selects by itself at least as many as
  /// it computes.
  index_t wanted(const Member& m, const Basis& basis) const {
    index_t asked = options_.entries > 0
                        ? options_.entries
                        : TopK::fraction(options_.density, m.source->out_extent() * m.source->in_extent()).k;
    if (m.source->selects()) asked = (std::max)(asked, m.source->element_count());
    return (std::min)(asked, basis.rows() * basis.cols());
  }
  /// The optimizer's options for a core in this basis.
  typename O::Options optimizer_options(const Member& m, const Basis& basis) const {
    typename O::Options options = options_.optimizer;
    if constexpr (requires { options.capacity = index_t{0}; }) {
      const double factor = options_.capacity_factor.value_or(BatchedBackend<B> ? 0 : 4);
      // A positive factor asks for a compact state, however small.
      const double room = factor > 0 ? (std::max)(1.0, factor * static_cast<double>(wanted(m, basis))) : 0.0;
      options.capacity =
          room < static_cast<double>(basis.rows() * basis.cols()) ? static_cast<index_t>(room) : 0;
    }
    return options;
  }

  /// Sparse gradient, update and optimizer for the member's present core.
  /// Throws ValueError when the core has more than 2^31 - 1 entries.
  void prepare(Context& ctx, Member& m) {
    require_positions(m);
    m.forget_state();  // before the new state takes its memory
    m.optimizer =
        std::make_unique<O>(ctx, m.basis().rows(), m.basis().cols(), optimizer_options(m, m.basis()));
    make_gradients(ctx, m);
  }
  /// Sparse gradient and update for the member's present core and optimizer.
  void make_gradients(Context& ctx, Member& m) {
    const index_t rows = m.optimizer->rows();
    const index_t cols = m.optimizer->cols();
    const index_t k = wanted(m, m.basis());
    const index_t entries = core_optimizer::update_capacity(*m.optimizer, k);
    m.gradient = {};
    m.update = nullptr;
    m.gradient = SparseGradient<C, B>(ctx, rows, cols, k);
    for (const Member& other : all()) {
      if (&other != &m && other.update != nullptr && other.update->rows() == rows &&
          other.update->cols() == cols && other.update->capacity() == entries)
        m.update = other.update;
    }
    if (m.update == nullptr) m.update = std::make_shared<SparseGradient<C, B>>(ctx, rows, cols, entries);
  }

  /// See SparseGradGroup::set_basis.
  RebaseReport set_basis(Context& ctx, Member& m, std::shared_ptr<const Basis> basis, MomentsPolicy moments) {
    m.require_idle("set_basis");
    m.source->require_new_basis("set_basis");
    if (basis == nullptr) basis = Basis::identity(m.source->out_extent(), m.source->in_extent());
    m.named([&] { m.source->require_basis(*basis); });
    const bool moved = moments == MomentsPolicy::transport && m.optimizer != nullptr;
    RebaseReport report;
    forget(m);
    if (moved) report = m.optimizer->rebase(ctx, m.basis(), *basis, moments, optimizer_options(m, *basis));
    m.source->set_basis(ctx, std::move(basis));
    if (moved) {
      make_gradients(ctx, m);
    } else if (has_positions(m)) {
      prepare(ctx, m);
    } else {
      m.forget_state();
    }
    if (!has_positions(m)) return report;
    m.selector.basis_changed(ctx, m.basis().rows(), m.basis().cols());
    return report;
  }

  /// Throws ValueError, naming the member, when positions in its core would not fit 32 bits.
  void require_positions(const Member& m) const {
    if (has_positions(m)) return;
    throw ValueError(m.title() + ": its core of " + shape_text(m.basis().rows(), m.basis().cols()) +
                     " has more than 2^31 - 1 entries; give it a basis of lower rank first");
  }
  /// An optimizer for members with a gradient that have none: a step before the refresh that a
  /// collection is for, or a core that was too large for one.
  void prepare_missing(Context& ctx) {
    for (Member& m : all())
      if (m.optimizer == nullptr && m.takes_part(rules_)) prepare(ctx, m);
  }
  /// Selects the members that are not yet selected. False where NaN or Inf leaves the step out, by
  /// NonFinite::skip.
  bool select(Context& ctx, GroupReport& report) {
    for (Member& m : all()) {
      if (!m.takes_part(rules_)) {
        ++report.without_gradient;
        continue;
      }
      if (!m.is_selected()) m.named([&] { m.select(ctx, rules_, false); });
      report.skipped = report.skipped || m.progress == Member::Progress::skipped;
      report.kept += m.gradient.count();
    }
    if (report.skipped) report.kept = 0;
    return !report.skipped;
  }
  /// Whether the optimizer takes the selected entries when they are multiplied by grad_scale in C.
  /// Where not, throws NonFiniteError, or leaves the step out under NonFinite::skip. Under
  /// NonFinite::propagate it takes all that are finite then.
  bool stays_finite(Context& ctx, const StepOptions& step, GroupReport& report) const {
    const C largest = rules_.non_finite == NonFinite::propagate ? (std::numeric_limits<C>::max)()
                                                                : core_optimizer::largest_gradient<C, O>();
    for (const Member& m : all()) {
      if (!m.is_selected()) continue;
      try {
        m.named([&] { core_optimizer::require_scaled<C, B>(ctx, m.gradient, step, largest); });
      } catch (const NonFiniteError&) {
        if (rules_.non_finite != NonFinite::skip) throw;
        report.skipped = true;
        report.kept = 0;
        return false;
      }
    }
    return true;
  }
  /// Throws, before anything has changed, what an optimizer's step would throw for the entries that
  /// were selected and these numbers.
  void require_step(Context& ctx, const StepOptions& step) const {
    for (const Member& m : all())
      if (m.is_selected()) m.named([&] { require_step(ctx, m, step); });
  }
  /// Takes the memory that the optimizers' steps will want, then tells the selectors that the step
  /// is taken.
  void commit(Context& ctx, GroupReport& report) {
    for (Member& m : all())
      if (m.is_selected() && core_optimizer::make_room(ctx, *m.optimizer, m.gradient)) ++report.became_dense;
    for (Member& m : all())
      if (m.is_selected() && m.selector.wants_commit())
        m.selector.committed(ctx, m.source->core(ctx), m.gradient);
  }

  /// Sums for the members' gradients, as the recipe shares them. Throws what BasisCollection
  /// throws.
  std::optional<BasisCollection<C, B>> start_collection(Context& ctx, const BasisRecipe& recipe) {
    std::optional<BasisCollection<C, B>> collection = BasisCollection<C, B>::of(ctx, all(), recipe);
    for (Member& m : all())
      m.sums = collection->sums(m.number);
    return collection;
  }
  /// Fits the bases. Where each process has collected gradients of its own, their sums are summed
  /// first.
  void fit(Context& ctx, BasisCollection<C, B>& collection) {
    if (rules_.sums_collections()) {
      collection.reduce(ctx,
                        [&](MatrixView<double> sums, bool lower) { rules_.reducer->sum(ctx, sums, lower); });
    }
    collection.fit(ctx);
  }
  /// Tells the sources whose dW is summed to form it.
  void form_weight_gradients(Context& ctx) {
    for (Member& m : all()) {
      m.source->form_weight_gradient(ctx, m.sums != nullptr);
      // Nothing was learned yet, and the basis to come has states of another shape.
      if (m.optimizer != nullptr && m.optimizer->steps() == 0) m.forget_state();
    }
  }
  /// Ends the collection of a member's gradients.
  void end_collection(Context& ctx, Member& m) {
    if (m.source->forms_weight_gradient()) m.source->form_weight_gradient(ctx, false);
    m.sums = nullptr;
    m.progress = Member::Progress::gathering;
  }

  /// Whole gradients, which a collection needs, take more memory than cores.
  void shrink_gradient_memory(Context& ctx) {
    if (shared_ == nullptr) return;
    index_t most = 0;
    for (const Member& m : all())
      if (m.given == nullptr) most = (std::max)(most, m.source->element_count());
    shared_->shrink(ctx, most);
  }

  /// See SparseGradGroup::squared_norm.
  double squared_norm(Context& ctx) {
    double sum = 0;
    for (Member& m : all()) {
      require_one_selection(m);
      if (!m.takes_part(rules_)) continue;
      if (!m.squared_norm && m.progress == Member::Progress::selected) {
        throw StateError("squared_norm: " + m.title() + " was selected without its norm; call select(ctx, " +
                         std::to_string(m.number) + ", true)");
      }
      if (!m.squared_norm && !m.is_selected()) {
        if (m.source->selects() || m.values_sent) {
          m.named([&] { m.select(ctx, rules_, true); });
        } else {
          const MatrixView<const C> core = m.named([&] { return m.finish(ctx, rules_); });
          m.squared_norm = B::template squared_norm<C>(ctx, core);
        }
      }
      sum += m.squared_norm.value_or(0);
    }
    return sum;
  }

  /// Takes the memory that steps with up to `max_tokens` tokens need.
  void reserve(Context& ctx, index_t max_tokens) {
    for (Member& m : all()) {
      const bool waits = m.optimizer == nullptr;  // for its basis
      if (waits && !m.source->forms_weight_gradient()) require_positions(m);
      m.source->reserve(ctx, max_tokens);
      if (waits) continue;
      if (!m.is_selected() && (m.selector || rules_.selector || m.source->selects())) m.make_positions(ctx);
      const index_t core = m.basis().rows() * m.basis().cols();
      const index_t update = m.update == nullptr ? wanted(m, m.basis()) : m.update->capacity();
      ctx.scratch().reserve(add_expanded_scratch<C, B>(ctx, m.basis(), update, m.rotations) +
                            B::template scratch_bound<C>(ctx, core) + (index_t{1} << 20));
    }
  }

  /// Whether no member waits for its basis.
  bool all_have_optimizers() const {
    return std::all_of(list_.begin(), list_.end(), [](const Member& m) { return m.optimizer != nullptr; });
  }

  /// All but the collection's and the scratch's part.
  GroupMemory memory() const {
    GroupMemory sum;
    std::vector<const void*> seen;
    const auto first_time = [&](const void* p) {
      if (std::find(seen.begin(), seen.end(), p) != seen.end()) return false;
      seen.push_back(p);
      return true;
    };
    for (const Member& m : all()) {
      sum.gradients += m.source->bytes() + m.earlier.bytes();
      sum.sparse_gradients += m.gradient.bytes();
      if (m.update != nullptr && first_time(m.update.get())) sum.sparse_gradients += m.update->bytes();
      if (m.optimizer != nullptr) sum.optimizer += m.optimizer->bytes();
      sum.selectors += m.selector.bytes();
      if (first_time(m.source->basis().get())) sum.bases += m.basis().bytes();
    }
    if (shared_ != nullptr) sum.gradients += shared_->bytes();
    return sum;
  }

  /// Throws StateError, naming the caller, while a member holds a gradient of this step.
  void require_idle(const char* call) const {
    for (const Member& m : all())
      m.require_idle(call);
  }
  /// With shared memory the gradient of a selected member is gone, and another would take its place
  /// unseen.
  void require_one_selection(const Member& m) const {
    if (shared_ == nullptr || !m.is_selected() || !m.source->accumulating()) return;
    throw StateError(m.title() +
                     " had a backward after its selection; with share_gradient_memory select after the last "
                     "micro-batch's backward");
  }
  /// The same of all members.
  void require_one_selection() const {
    for (const Member& m : all())
      require_one_selection(m);
  }

 private:
  /// Tells the reducer that the member's gradients will be of another kind.
  void forget(const Member& m) const {
    if (rules_.reducer != nullptr) rules_.reducer->forget(m.number);
  }
  void require_step(Context& ctx, const Member& m, const StepOptions& step) const {
    core_optimizer::require_numbers<C>(*m.optimizer, step);
    core_optimizer::check(ctx, *m.optimizer, m.gradient);
    if constexpr (RemainderOptimizer<O, C, B>) m.require_remainder(rules_);
    const index_t entries = core_optimizer::update_capacity(*m.optimizer, m.gradient.count());
    if (m.update->capacity() >= entries) return;
    throw StateError("step: the update of " + m.title() + " has room for " +
                     std::to_string(m.update->capacity()) + " entries, its optimizer may change " +
                     std::to_string(entries) + "; its state was changed from outside");
  }

  template <class M>
  static std::span<M> living(std::span<M> members) {
    for (const M& m : members)
      m.require_alive();
    return members;
  }
  std::size_t place(index_t i) const {
    if (i < 0 || i >= size()) {
      throw ValueError("index is " + std::to_string(i) + ", expected 0 <= index < " + std::to_string(size()) +
                       ", the weights of the group");
    }
    list_[static_cast<std::size_t>(i)].require_alive();
    return static_cast<std::size_t>(i);
  }

  Options options_;
  MemberRules<C, B> rules_;
  std::vector<Member> list_;
  std::shared_ptr<GradientMemory<C, B>> shared_;  ///< null unless shared
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
