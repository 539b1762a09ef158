// BatchedStep: selection and step of many members, each kind of work once for all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "batched_projection.hpp"
#include "batched_weight_update.hpp"
#include "group_member.hpp"
#include "group_options.hpp"
#include "sequential_step.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The step of a group's members on a BatchedBackend, with as few launches as there are kinds of
/// work.
///
/// On a GPU a layer's top-k, moments and update are too small to fill it, and a launch costs more
/// than they do. Here top-k is one sequence of launches for all members that select by it, Adam
/// one, and the weights' updates are a BatchedWeightUpdate. Members that do not fit (a selector of
/// their own, a compact state, shared gradient memory, no basis and the engine's dW itself as core)
/// take a SequentialStep.
///
/// Where all members do both together, the host does not wait to learn of NaN or Inf: their step
/// changes nothing, under NonFinite::raise those after it neither, and NonFiniteError comes from
/// `check`, from Context::check, or from a later step that finds it known already. The gradients
/// are then gone.
template <class T, Backend B, class O>
class BatchedStep {
 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;
  /// One weight matrix of the group.
  using Member = GroupMember<T, B, O>;
  /// The weight matrices of the group.
  using Members = std::span<Member>;
  /// What the group's members have in common.
  using Rules = MemberRules<C, B>;

  /// Takes the memory of the step's guard.
  void attach(Context& ctx) { guard_.resize(ctx, StepGuard::words); }

  /// Takes the memory that later steps of these members need.
  void reserve(Context& ctx, Members members) {
    index_t entries = 0;
    for (const Member& m : members)
      entries += m.basis().rows() * m.basis().cols();
    gather_sources(members, [](const Member&) { return true; });
    projection_.reserve(ctx, sources_);
    // Halves of the cores' projections, then of the weights' updates.
    ctx.scratch().reserve(
        projection_.scratch_bytes(sources_) +
        B::template batch_scratch_bound<C>(ctx, static_cast<index_t>(members.size()), entries));
  }

  /// Makes the cores of the members that still have to make theirs, those of one shape by common
  /// products. A gradient that goes to other processes or to sums is left to its member.
  void finish_together(Context& ctx, Members members, const Rules& rules) {
    if (rules.reducer != nullptr) return;
    gather_sources(members, [](const Member& m) {
      const bool first =
          m.progress == Member::Progress::gathering || m.progress == Member::Progress::collected;
      return first && m.sums == nullptr;
    });
    projection_.run(ctx, sources_);
  }

  /// Finds the squared norms of the members' gradients with one wait, but for those of entries that are
  /// given beforehand. For SparseGradGroup::squared_norm.
  void measure_together(Context& ctx, Members members, const Rules& rules) {
    if (rules.clears_selected) return;
    finish_together(ctx, members, rules);
    chosen_.clear();
    kept_.clear();
    for (Member& m : members) {
      if (!m.takes_part(rules) || m.is_selected() || m.squared_norm || m.source->selects() || m.values_sent)
        continue;
      kept_.push_back(m.named([&] { return m.finish(ctx, rules); }));
      chosen_.push_back(&m);
    }
    norms_.resize(kept_.size());
    B::template squared_norm_batched<C>(ctx, std::span<const MatrixView<const C>>(kept_), norms_.data());
    for (std::size_t i = 0; i < norms_.size(); ++i)
      chosen_[i]->squared_norm = norms_[i];
  }

  /// Selects the members that are not yet selected, have a gradient and an optimizer, and select by
  /// TopK. Returns whether the host need not look for NaN and Inf in the entries times `grad_scale`:
  /// the device does. Throws NonFiniteError under NonFinite::raise where the host waits to learn of
  /// it.
  bool select_together(Context& ctx, Members members, const Rules& rules, double grad_scale) {
    if (ctx.step_flag().raised()) check(ctx, members);
    guarded_ = false;
    finish_together(ctx, members, rules);
    if (rules.selector || rules.clears_selected) return false;
    begin(ctx, members, rules);
    if (chosen_.empty()) return false;
    B::template top_k_batched<C>(ctx, std::span<const TopKTask<C>>(selections_));
    guarded_ = rules.non_finite != NonFinite::propagate && chosen_.size() == members.size() &&
               std::all_of(chosen_.begin(), chosen_.end(), [](const Member* m) { return fits(*m); });
    if (guarded_) {
      B::template guard_step<C>(ctx, std::span<const MatrixView<const C>>(kept_), largest(grad_scale),
                                rules.non_finite == NonFinite::raise, StepGuard{guard_.data()});
    }
    const bool look = rules.non_finite != NonFinite::propagate && !guarded_;
    const index_t bad =
        look ? B::template first_nonfinite_batched<C>(ctx, std::span<const MatrixView<const C>>(kept_)) : -1;
    SelectReport report;
    if (bad >= 0) {
      Member& m = *chosen_[static_cast<std::size_t>(bad)];
      m.named([&] {
        detail::blaming(ctx, rules.reducer, m.number,
                        [&] { detail::check_finite<C, B>(ctx, m.gradient, rules.non_finite, report); });
      });
    }
    for (Member* m : chosen_)
      m->progress = Member::Progress::selected;
    if (report.skipped) chosen_[static_cast<std::size_t>(bad)]->progress = Member::Progress::skipped;
    return guarded_;
  }

  /// As SequentialStep::update. D is formed in the memory of the core, which is lost. Throws
  /// StateError, before anything has changed, when steps are counted on the device and a member
  /// does not fit.
  void update(Context& ctx, Members members, const StepOptions& options, double decay, GroupReport& report) {
    together_.clear();
    for (Member& m : members) {
      if (!m.is_selected()) continue;
      if (takes_together(m)) {
        together_.push_back(&m);
      } else if (counts_on_device()) {
        throw StateError(
            "step: " + m.title() +
            " cannot count on the device: it needs a dense optimizer state, a weight that is updated "
            "itself, gradient memory of its own, and a basis where its gradient is given");
      }
    }
    if (!together_.empty()) update_together(ctx, options, decay);
    for (Member& m : members)
      if (m.is_selected() && !takes_together(m)) alone_.update(ctx, m, options, decay, report);
  }

  /// Waits for the steps that did not wait. Returns how many of them changed nothing, for NaN or
  /// Inf, since the last call; they then do not count as the optimizers' steps either. Throws
  /// NonFiniteError where the policy is `raise`.
  index_t check(Context& ctx, Members members) {
    if (guard_.empty()) return 0;
    std::uint32_t words[StepGuard::words];
    B::template download<std::uint32_t>(ctx, guard_.data(), words, StepGuard::words);
    const auto skipped = static_cast<index_t>(StepGuard{words}.skipped());
    if (skipped > 0) {
      for (Member& m : members)
        if (m.optimizer != nullptr)
          m.optimizer->set_steps(std::max<std::int64_t>(0, m.optimizer->steps() - skipped));
      guard_.resize(ctx, StepGuard::words);
    }
    ctx.step_flag().raise();  // the copy has waited
    return skipped;
  }
  /// Bytes of gradient memory of its own.
  index_t bytes() const { return projection_.bytes(); }

  /// Whether steps are counted in the backend's memory.
  bool counts_on_device() const { return !counters_.empty(); }
  /// Moves the counts of steps to the backend's memory.
  void count_on_device(Context& ctx, Members members) {
    std::vector<std::int64_t> counts;
    for (Member& m : members)
      counts.push_back(m.optimizer == nullptr ? 0 : m.optimizer->steps());
    counters_.resize(ctx, static_cast<index_t>(members.size()));
    B::template upload<std::int64_t>(ctx, counts.data(), counters_.data(), counters_.size());
  }
  /// Brings the counts of steps back to the host.
  void count_on_host(Context& ctx, Members members) {
    if (counters_.empty()) return;
    std::vector<std::int64_t> counts(members.size());
    B::template download<std::int64_t>(ctx, counters_.data(), counts.data(), counters_.size());
    for (std::size_t i = 0; i < members.size(); ++i)
      if (members[i].optimizer != nullptr) members[i].optimizer->set_steps(counts[i]);
    counters_.release();
  }

 private:
  template <class Takes>
  void gather_sources(Members members, const Takes& takes) {
    sources_.clear();
    for (Member& m : members)
      if (takes(m)) sources_.push_back(m.source);
  }
  /// The largest entry that the optimizer takes when it is multiplied by `scale` in C.
  static C largest(double scale) {
    const auto most = static_cast<double>(core_optimizer::largest_gradient<C, O>());
    // Below the quotient by more than its rounding and that of the product.
    const double largest =
        most * (1 - 2 * static_cast<double>(std::numeric_limits<C>::epsilon())) / std::abs(scale);
    constexpr C all = (std::numeric_limits<C>::max)();
    return largest < static_cast<double>(all) ? static_cast<C>(largest) : all;
  }
  /// Whether the step of a member whose core is made can be one of many: the state is dense, and the
  /// core is not the engine's dW, in whose place D would be formed.
  static bool fits(const Member& m) {
    return m.source->unread_gradient() == nullptr && m.optimizer->steps_in_place(m.gradient);
  }
  /// The same of a selected member, whose core must still be there.
  static bool takes_together(const Member& m) { return m.source->finished() && fits(m); }

  /// Finishes the cores of the members to be selected and lists the work.
  void begin(Context& ctx, Members members, const Rules& rules) {
    chosen_.clear();
    selections_.clear();
    kept_.clear();
    for (Member& m : members) {
      if (m.is_selected() || m.selector || m.optimizer == nullptr || m.source->selects() ||
          !m.takes_part(rules))
        continue;
      const MatrixView<const C> core = m.named([&] { return m.finish(ctx, rules); });
      SparseGradient<C, B>& s = m.gradient;
      s.set_count(s.capacity());
      selections_.push_back({core.data, core.size(), s.count(), s.indices(), s.values()});
      kept_.push_back(MatrixView<const C>(s.values(), 1, s.count()));
      chosen_.push_back(&m);
    }
  }

  void update_together(Context& ctx, const StepOptions& options, double decay) {
    const StepGuard guard = guarded_ ? StepGuard{guard_.data()} : StepGuard{};
    const AdamCoefficients c = together_.front()->optimizer->coefficients(options);
    sparse_.clear();
    states_.clear();
    weights_.clear();
    for (Member* m : together_) {
      const MatrixView<C> d = m->source->own_core(ctx);
      if (!m->gradient.dense()) sparse_.push_back(d);
      states_.push_back(m->optimizer->take_step(ctx, m->gradient, d.data));
      if (counts_on_device()) states_.back().counter = counters_.data() + m->number;
      weights_.add({m->weight, &m->basis(), &m->cost_model, m->rotations, d, m->gradient.count()});
    }
    B::template zero_batched<C>(ctx, std::span<const MatrixView<C>>(sparse_));
    B::template adam_batched<C>(ctx, c, std::span<const AdamTask<C>>(states_), guard);
    weights_.run(ctx, decay, guard);
  }

  SequentialStep<T, B, O> alone_;
  Buffer<std::int64_t, B> counters_;  ///< steps of each member, while they count on the device
  Buffer<std::uint32_t, B> guard_;    ///< StepGuard of the steps that do not wait
  bool guarded_ = false;              ///< the present step is one
  // Kept from step to step, so that a step takes no memory.
  std::vector<Member*> chosen_, together_;
  std::vector<TopKTask<C>> selections_;
  std::vector<MatrixView<const C>> kept_;
  std::vector<AdamTask<C>> states_;
  std::vector<MatrixView<C>> sparse_;
  std::vector<double> norms_;
  std::vector<CoreSource<C, B>*> sources_;
  BatchedProjection<C, B> projection_;
  BatchedWeightUpdate<T, B> weights_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
