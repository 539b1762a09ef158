// GroupState: all that a checkpoint must hold of a group, beside the weights.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core_optimizer.hpp"
#include "group_member.hpp"
#include "plan.hpp"
#include "selector.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What a group needs, beside weights and options, to go on as if it had not stopped: see
/// SparseGradGroup::state.
template <class C, Backend B>
struct GroupState {
  /// State of one member.
  struct Layer {
    /// Name of the kind of layer, whose members may share a basis.
    std::string kind;
    std::shared_ptr<const TuckerBasis<C, B>> basis;  ///< one object for the layers that share it
    /// The order of the products.
    Plan plan;
    /// The optimizer's state.
    OptimizerState<C> optimizer;
    SelectorState<C> selector;  ///< of a selector that keeps one
    index_t kept = 0;           ///< entries kept in a step; 0: not known, as in older files
  };
  /// One for each member, in the group's order.
  std::vector<Layer> layers;
};

namespace detail {

/// Throws ValueError unless the member can take the saved state over.
template <class C, Backend B, class Members, class Member>
void require_member_state(typename B::Context& ctx, const Members& members, const Member& m,
                          const typename GroupState<C, B>::Layer& saved) {
  if (saved.kind != m.kind)
    throw ValueError("the saved kind is '" + saved.kind + "', expected '" + m.kind + "'");
  if (saved.basis == nullptr) throw ValueError("the saved basis is null");
  const index_t rows = saved.basis->rows();
  const index_t cols = saved.basis->cols();
  require_shape("the saved basis", saved.basis->out_extent(), saved.basis->in_extent(),
                m.source->out_extent(), m.source->in_extent(), "out x in of the weight");
  m.source->require_basis(*saved.basis);
  // Before the optimizer's capacity, which follows from it.
  const index_t kept = members.wanted(m, *saved.basis);
  if (saved.kept != 0 && saved.kept != kept) {
    throw ValueError("the saved state was made with " + std::to_string(saved.kept) +
                     " kept entries a step, expected " + std::to_string(kept) +
                     ": the density is another, or `entries`");
  }
  using Optimizer = typename decltype(m.optimizer)::element_type;
  Optimizer(ctx, rows, cols, members.optimizer_options(m, *saved.basis)).restore(ctx, saved.optimizer);
  if (saved.selector.empty()) return;
  if (!m.selector.saves()) {
    throw ValueError(
        "the saved state has one of a selector, and the group none that keeps a state here; call "
        "use_selector "
        "first");
  }
  m.selector.check_state(rows, cols, kept, saved.selector);
}

template <class C, Backend B, class Members>
GroupState<C, B> group_state(typename B::Context& ctx, const Members& members) {
  GroupState<C, B> state;
  for (const auto& m : members.all())
    state.layers.push_back({m.kind, m.source->basis(), m.source->plan(), m.optimizer->state(ctx),
                            m.selector.state(ctx), members.wanted(m, m.basis())});
  return state;
}

/// Throws ValueError, naming weight and difference, unless restore_group_state can take the state
/// over.
template <class C, Backend B, class Members>
void require_group_state(typename B::Context& ctx, const Members& members, const GroupState<C, B>& state) {
  if (static_cast<index_t>(state.layers.size()) != members.size()) {
    throw ValueError("the saved state has " + std::to_string(state.layers.size()) + " weights, expected " +
                     std::to_string(members.size()));
  }
  for (const auto& m : members.all()) {
    try {
      require_member_state<C, B>(ctx, members, m, state.layers[static_cast<std::size_t>(m.number)]);
    } catch (const Error& error) {
      throw ValueError(m.title() + ": " + error.what());
    }
  }
}

template <class C, Backend B, class Members>
void restore_group_state(typename B::Context& ctx, Members& members, const GroupState<C, B>& state) {
  for (auto& m : members.all()) {
    const auto& saved = state.layers[static_cast<std::size_t>(m.number)];
    m.source->set_basis(ctx, saved.basis, saved.plan);
    members.prepare(ctx, m);
    m.optimizer->restore(ctx, saved.optimizer);
    members.make_gradients(ctx, m);
    m.selector.basis_changed(ctx, saved.basis->rows(), saved.basis->cols());
    if (!saved.selector.empty()) m.selector.restore(ctx, saved.selector);
  }
}

}  // namespace detail
}  // namespace sparsegrad::SPARSEGRAD_ABI
