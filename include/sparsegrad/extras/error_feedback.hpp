// ErrorFeedback: a selector that remembers what it did not keep.
#pragma once

#include <string>
#include <vector>

#include "../core/backend.hpp"
#include "../core/buffer.hpp"
#include "../core/float_bits.hpp"
#include "../default_backend.hpp"
#include "../selector.hpp"
#include "../sparse_gradient.hpp"
#include "../top_k.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Top-k of the core gradient plus what the steps before did not keep: small entries arrive, summed
/// up.
///
/// The core is G~ and the residual E, both [r, c]:
///
///     P = G~ + E        S = top_k(|P|), k = S's capacity        E <- P - S once the step is taken
///
/// (Seide, Fu, Droppo, Li, Yu, "1-bit stochastic gradient descent and its application to
/// data-parallel distributed training of speech DNNs", Interspeech 2014; as a general rule with its
/// convergence, Karimireddy, Rebjock, Stich, Jaggi, "Error feedback fixes SignSGD and other
/// gradient compression schemes", ICML 2019). Adam sees S.
///
/// Selecting changes neither core nor residual: a step that is skipped, or throws, leaves E as it
/// was. E is in the units of the core, before grad_scale; a loss scale that changes would mix
/// units. It is 0 in a new basis.
///
///     group.use_selector(ctx, i, std::make_shared<ErrorFeedback<float>>());
///
/// Memory: r * c numbers, and as many of scratch in a selection.
template <class T, Backend B = DefaultBackend>
class ErrorFeedback {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The sparse gradients that it takes.
  using Gradient = SparseGradient<T, B>;
  /// It writes rising positions (see Selector).
  static constexpr bool rising_positions = true;

  /// S from the core [r, c], contiguous. Throws ShapeError when the residual has other extents, and
  /// as TopK.
  SelectReport operator()(Context& ctx, ConstMatrixView<T> core, Gradient& s) const {
    const TopK top{s.capacity()};
    if (residual_.empty()) return top(ctx, core, s);
    detail::require_core<T, B>(core, s);
    require_residual(core);
    auto frame = ctx.frame();
    const MatrixView<T> sum = frame.template matrix<T>(core.rows, core.cols);
    B::template copy<T>(ctx, residual_.matrix(rows_, cols_), sum);
    B::template add<T>(ctx, T(1), core, sum);
    return top(ctx, sum, s);
  }

  /// E <- core + E - S, after the step with the S that was selected from this core. Throws
  /// ShapeError.
  void committed(Context& ctx, ConstMatrixView<T> core, const Gradient& s) {
    detail::require_core<T, B>(core, s);
    if (residual_.empty()) resize(ctx, core.rows, core.cols);
    require_residual(core);
    const MatrixView<T> residual = residual_.matrix(rows_, cols_);
    if (s.dense()) return B::template zero<T>(ctx, residual.data, residual.size());
    auto frame = ctx.frame();
    T* zeros = frame.template take<T>(s.count());
    B::template zero<T>(ctx, zeros, s.count());
    B::template add<T>(ctx, T(1), core, residual);
    B::template scatter<T>(ctx, zeros, s.indices(), s.count(), residual.data);
  }

  /// E = 0 for a core of these extents, in which the old residual has no meaning. Takes its memory,
  /// so that `committed` allocates nothing.
  void basis_changed(Context& ctx, index_t rows, index_t cols) { resize(ctx, rows, cols); }

  /// E [r, c]; empty before the first `committed` or `basis_changed`, when it is 0.
  MatrixView<const T> residual() const { return residual_.matrix(rows_, cols_); }
  /// Bytes of backend memory held.
  index_t bytes() const { return residual_.bytes(); }

  /// E in host memory, row by row.
  SelectorState<T> state(Context& ctx) const {
    SelectorState<T> state;
    state.values.resize(static_cast<std::size_t>(residual_.size()));
    if (!residual_.empty())
      B::template download<T>(ctx, residual_.data(), state.values.data(), residual_.size());
    return state;
  }
  /// Throws ValueError unless the state has rows * cols finite numbers and no positions.
  void check_state(index_t rows, index_t cols, const SelectorState<T>& state) const {
    if (static_cast<index_t>(state.values.size()) != rows * cols || !state.positions.empty()) {
      throw ValueError("the saved residual has " + std::to_string(state.values.size()) +
                       " numbers, expected " + std::to_string(rows * cols));
    }
    for (std::size_t e = 0; e < state.values.size(); ++e)
      if (!is_finite(state.values[e]))
        throw ValueError("the saved residual holds NaN or Inf at entry " + std::to_string(e));
  }
  /// Takes E over, for the extents of the last `basis_changed`. Throws as check_state.
  void restore(Context& ctx, const SelectorState<T>& state) {
    check_state(rows_, cols_, state);
    if (!residual_.empty())
      B::template upload<T>(ctx, state.values.data(), residual_.data(), residual_.size());
  }

 private:
  void resize(Context& ctx, index_t rows, index_t cols) {
    residual_.resize(ctx, rows * cols);
    rows_ = rows;
    cols_ = cols;
  }
  void require_residual(MatrixView<const T> core) const {
    require_shape("core", core.rows, core.cols, rows_, cols_, "rows x cols of the residual");
  }

  index_t rows_ = 0;
  index_t cols_ = 0;
  Buffer<T, B> residual_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
