// FixedSupport: a selector that keeps the same entries in every step.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../core/backend.hpp"
#include "../default_backend.hpp"
#include "../selector.hpp"
#include "../sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Keeps the entries at positions chosen beforehand: S(i, j) = G~(i, j) on them.
///
/// Reads a finished core. Where that is too large, SampledGradient computes the entries alone
/// (sampled_gradient.hpp).
///
///     group.use_selector(ctx, i, FixedSupport<float>(ctx, support));
template <class T, Backend B = DefaultBackend>
class FixedSupport {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// It writes rising positions (see Selector).
  static constexpr bool rising_positions = true;
  /// They do not depend on the core.
  static constexpr bool given_positions = true;

  /// A copy of the support of `support` [r, c]; its values have no meaning. Throws ValueError unless
  /// its positions rise strictly and lie in the core.
  FixedSupport(Context& ctx, const SparseGradient<T, B>& support)
      : support_(ctx, support.rows(), support.cols(), support.count()) {
    support_.copy_support(ctx, support);
    detail::require_positions<T, B>(ctx, support_, "the caller of FixedSupport");
  }

  /// The support.
  const SparseGradient<T, B>& support() const { return support_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return support_.bytes(); }
  /// Entries that it keeps in every step.
  index_t entries() const { return support_.count(); }

  /// Throws StateError when the basis has changed since the support was given; ValueError when `s`
  /// has no room for it; ShapeError.
  SelectReport operator()(Context& ctx, ConstMatrixView<T> core, SparseGradient<T, B>& s) const {
    if (stale_) throw StateError("FixedSupport: the core has another basis than the support was chosen in");
    detail::require_core<T, B>(core, s);
    s.copy_support(ctx, support_);
    if (s.dense()) {
      B::template copy<T>(ctx, core, s.matrix());
    } else {
      B::template gather<T>(ctx, core.data, s.indices(), s.count(), s.values());
    }
    return {s.count(), s.count(), false, false};
  }

  /// Positions mean nothing in another basis: the next selection throws.
  void basis_changed(Context&, index_t, index_t) { stale_ = std::exchange(placed_, true); }

  /// The positions of the support, in host memory.
  SelectorState<T> state(Context& ctx) const { return {support_.positions(ctx), {}}; }
  /// Throws ValueError unless the positions rise strictly and lie in a core of these extents.
  void check_state(index_t rows, index_t cols, const SelectorState<T>& state) const {
    const std::vector<stored_index_t>& at = state.positions;
    for (std::size_t e = 0; e < at.size(); ++e) {
      if (at[e] < 0 || at[e] >= rows * cols || (e > 0 && at[e] <= at[e - 1])) {
        throw ValueError("the saved support has position " + std::to_string(at[e]) + " at entry " +
                         std::to_string(e) + ", expected strictly rising positions in [0, " +
                         std::to_string(rows * cols) + ")");
      }
    }
    if (!state.values.empty() || at.empty())
      throw ValueError("the saved state is not that of a fixed support: expected positions alone");
    require_shape("the support", support_.rows(), support_.cols(), rows, cols, "rows x cols of the core");
  }
  /// The same, and ValueError when the support has more positions than there is room for.
  void check_state(index_t rows, index_t cols, index_t room, const SelectorState<T>& state) const {
    check_state(rows, cols, state);
    if (static_cast<index_t>(state.positions.size()) > room) {
      throw ValueError("the saved support has " + std::to_string(state.positions.size()) +
                       " positions, expected at most " + std::to_string(room) +
                       ", the entries that are kept of this core");
    }
  }
  /// Takes a support over, for the present basis. Throws as check_state.
  void restore(Context& ctx, const SelectorState<T>& state) {
    check_state(support_.rows(), support_.cols(), state);
    SparseGradient<T, B> made(ctx, support_.rows(), support_.cols(),
                              static_cast<index_t>(state.positions.size()));
    made.assign(ctx, state.positions, std::vector<T>(state.positions.size()));
    support_ = std::move(made);
    stale_ = false;
  }

 private:
  SparseGradient<T, B> support_;
  bool placed_ = false;  ///< a group has told the basis that the support is for
  bool stale_ = false;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
