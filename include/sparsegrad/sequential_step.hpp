// SequentialStep: the step of a group's members, one after another.
#pragma once

#include <cstdint>
#include <span>

#include "group_member.hpp"
#include "group_options.hpp"
#include "weight_update.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Takes the step of each selected member by itself. BatchedStep has the same members for all at
/// once; a group chooses one of the two by its backend and optimizer.
template <class T, Backend B, class O>
class SequentialStep {
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

  /// What a new member needs.
  void attach(Context&) {}
  /// Makes the cores that it can make together: none here.
  void finish_together(Context&, Members, const Rules&) {}
  /// Finds the norms of members' gradients that it can find together: none here.
  void measure_together(Context&, Members, const Rules&) {}
  /// Selects members that it can select together, and says whether the device looks for NaN and Inf
  /// in their scaled entries. This step leaves every member to be selected alone.
  bool select_together(Context&, Members, const Rules&, double) { return false; }
  /// Scratch memory of a step.
  void reserve(Context&, Members) {}

  /// Moments and weights of every selected member. All refusals have come before.
  void update(Context& ctx, Members members, const StepOptions& options, double decay, GroupReport& report) {
    for (Member& m : members)
      if (m.is_selected()) update(ctx, m, options, decay, report);
  }
  /// Steps one member and updates its weight.
  void update(Context& ctx, Member& m, const StepOptions& options, double decay, GroupReport& report) {
    const StepReport step = m.optimizer->step(ctx, m.gradient, options, *m.update);
    report.became_dense += step.went_dense ? 1 : 0;
    report.evicted += step.evicted;
    if (m.apply) return m.apply(ctx, m.source->basis(), *m.update, decay);
    update_weight<T, B>(ctx, *m.weight, m.basis(), *m.update, decay, m.cost_model, m.rotations);
    if constexpr (RemainderOptimizer<O, C, B>) {
      m.optimizer->use_remainder(ctx, m.remainder(ctx, options));
      m.weight->template round<B>(ctx);
    }
  }

  /// Waits for steps that did not wait, and returns how many of them changed nothing: none here.
  index_t check(Context&, Members) { return 0; }
  /// Whether steps are counted on the device.
  bool counts_on_device() const { return false; }
  /// Bytes of gradient memory of its own.
  index_t bytes() const { return 0; }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
