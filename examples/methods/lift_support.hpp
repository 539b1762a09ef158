// LIFT's selector: the entries that matter in the weight's best approximation of low rank.
#pragma once

#include <sparsegrad/sparsegrad.hpp>

namespace methods {
using namespace sparsegrad;

/// The k largest entries of |W_r|, W_r the best approximation of W of rank r, chosen anew every `period` steps; k is what
/// S has room for. The core must be dW itself: no basis. (Liu et al., "LIFT the Veil for the Truth", ICML 2025)
template <class T, class B = DefaultBackend>
class LiftSupport {
 public:
  using Context = typename B::Context;
  LiftSupport(MatrixView<const T> weight, index_t rank, std::int64_t period)
      : weight_(weight), rank_(rank), period_(period) {}

  void operator()(Context& ctx, MatrixView<const T> core, SparseGradient<T, B>& s) {
    if (steps_ % period_ == 0) choose(ctx, s.capacity());
    s.copy_support(ctx, support_);
    B::template gather<T>(ctx, core.data, s.indices(), s.count(), s.values());
  }
  void committed(Context&, MatrixView<const T>, const SparseGradient<T, B>&) { ++steps_; }

  SelectorState<T> state(Context& ctx) const { return {support_.positions(ctx), {T(steps_)}}; }
  void restore(Context& ctx, const SelectorState<T>& saved) {
    support_ = {ctx, weight_.rows, weight_.cols, index_t(saved.positions.size())};
    support_.assign(ctx, saved.positions, std::vector<T>(saved.positions.size()));
    steps_ = std::int64_t(saved.values.at(0));
  }

 private:
  /// W_r = W U U^T, U the r leading right singular vectors of W.
  void choose(Context& ctx, index_t k) {
    HosvdAccumulator<T, B> sums(ctx, weight_.rows, weight_.cols);
    sums.add(ctx, weight_);
    const auto all = SideRecipe::identity(), leading = SideRecipe::hosvd(rank_);
    const auto basis = TuckerBasis<T, B>::fit(ctx, sums, all, leading);
    auto frame = ctx.frame();
    const MatrixView<T> core = frame.template matrix<T>(basis->rows(), basis->cols());
    const MatrixView<T> low_rank = frame.template matrix<T>(weight_.rows, weight_.cols);
    basis->project(ctx, weight_, core);
    basis->expand(ctx, core, T(0), low_rank);
    support_ = {ctx, weight_.rows, weight_.cols, k};
    TopK{k}(ctx, low_rank, support_);
  }
  MatrixView<const T> weight_;
  index_t rank_;
  std::int64_t period_, steps_ = 0;
  SparseGradient<T, B> support_;
};
}  // namespace methods
