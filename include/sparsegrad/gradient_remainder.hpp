// GradientRemainder: what lies outside of a basis, for optimizers that use it.
#pragma once

#include "core/backend.hpp"
#include "core/view.hpp"
#include "core/weight_layout.hpp"
#include "core_optimizer.hpp"
#include "sparse_gradient.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What an optimizer is told that also uses what lies outside of the basis: a member
/// `use_remainder(ctx, remainder)` is called after each step's update of W, and may change W
/// further.
template <class C, Backend B>
struct GradientRemainder {
  MatrixView<const C> gradient;  ///< dW [out, in]
  MatrixView<const C> core;      ///< V^T dW U [r, c]
  /// The basis, V and U.
  const TuckerBasis<C, B>* basis = nullptr;
  const SparseGradient<C, B>* update = nullptr;  ///< D of this step, -lr included
  MatrixView<C> weight;                          ///< W, or the master of one of 16 bits
  WeightLayout layout = WeightLayout::out_in;    ///< of the weight
  /// The numbers of the step.
  StepOptions step;

  /// W += alpha A, A [out, in], whatever the weight's layout.
  void add_to_weight(typename B::Context& ctx, C alpha, ConstMatrixView<C> a) const {
    require_shape("A", a.rows, a.cols, gradient.rows, gradient.cols, "out x in");
    if (layout == WeightLayout::out_in) return B::template add<C>(ctx, alpha, a, weight);
    auto frame = ctx.frame();
    const MatrixView<C> turned = frame.template matrix<C>(a.cols, a.rows);
    B::template transpose<C>(ctx, a, turned);
    B::template add<C>(ctx, alpha, turned, weight);
  }
};

/// An optimizer that also uses what lies outside of the basis: SequentialStep calls its
/// `use_remainder`.
template <class O, class C, class B>
concept RemainderOptimizer = Backend<B> &&
    requires(O& optimizer, typename B::Context& ctx, const GradientRemainder<C, B>& remainder) {
  optimizer.use_remainder(ctx, remainder);
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
