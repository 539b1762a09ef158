// The sums over processes of a group's members: begun together, checked, dropped.
#pragma once

#include <vector>

#include "gradient_reducer.hpp"
#include "group_member.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::detail {

/// Begins the sums over processes of all members that take part, so that they go together. Members
/// that share gradient memory have their turns. `cores`: those whose chosen values would be summed
/// wait, since their whole core is wanted.
template <class Context, class Members, class Rules>
void start_reduces(Context& ctx, Members&& members, const Rules& rules, bool cores = false) {
  if (rules.reducer == nullptr || rules.clears_selected) return;
  for (auto& m : members) {
    if (!m.takes_part(rules) || (cores && !m.source->selects() && m.sends_values(rules))) continue;
    m.named([&] { m.start_reduce(ctx, rules); });
  }
}

/// See GradientReducer::agree.
template <class Context, class Members, class C, Backend B>
void require_agreement(Context& ctx, const Members& members, const MemberRules<C, B>& rules) {
  if (rules.reducer == nullptr || !rules.reducer->checks()) return;
  std::vector<const SparseGradient<C, B>*> selected;
  for (const auto& m : members)
    if (m.is_selected()) selected.push_back(&m.gradient);
  rules.reducer->agree(ctx, selected);
}

/// Forgets all gradients and selections.
template <class Members, class Rules>
void clear_members(Members&& members, const Rules& rules) {
  bool started = false;
  for (auto& m : members) {
    started = started || m.started;
    m.clear();
  }
  if (started && rules.reducer != nullptr) rules.reducer->abandon();
}

/// What the reducer knows of the members' gradients has no meaning any more.
template <class Members, class Rules>
void forget_gradients(const Members& members, const Rules& rules) {
  if (rules.reducer == nullptr) return;
  for (const auto& m : members)
    rules.reducer->forget(m.number);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::detail
