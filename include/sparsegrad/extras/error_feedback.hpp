// ErrorFeedback: a selector that remembers what it did not keep.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "../core/backend.hpp"
#include "../core/buffer.hpp"
#include "../default_backend.hpp"
#include "../sparse_gradient.hpp"
#include "../top_k.hpp"

namespace sparsegrad {

/// Selector of one layer: top-k of the core gradient G~ plus the residual E of the steps before, both [r, c],
///     P = G~ + E        S = top_k(|P|), k = S's capacity        E <- P - S once the step is taken
/// so that what is small in every step still arrives, summed up (Seide, Fu, Droppo, Li, Yu, "1-bit stochastic gradient
/// descent and its application to data-parallel distributed training of speech DNNs", Interspeech 2014; as a general
/// rule with its convergence, Karimireddy, Rebjock, Stich, Jaggi, "Error feedback fixes SignSGD and other gradient
/// compression schemes", ICML 2019). Adam sees S.
///
/// Selecting changes neither core nor residual: a step that is skipped, or throws, leaves E as it was. E is in the units
/// of the core, before grad_scale and clipping; a loss scale that changes would mix units.
///     auto feedback = std::make_shared<ErrorFeedback<float>>();
///     group.use_selector(i, feedback);       // the group calls keep after a step, reset when the basis changes
template <class T, Backend B = DefaultBackend>
class ErrorFeedback {
 public:
  using Context = typename B::Context;
  using Gradient = SparseGradient<T, B>;

  /// S from the core [r, c], contiguous. Takes an r x c matrix of scratch memory where there is a residual.
  /// Throws ShapeError when the residual has other extents, and as TopK.
  SelectReport operator()(Context& ctx, MatrixView<T> core, Gradient& s,
                          NonFinite policy = NonFinite::raise) const {
    const TopK top{s.capacity()};
    if (residual_.empty()) return top(ctx, core, s, policy);
    detail::require_core(core, s);
    require_residual(core);
    auto frame = ctx.frame();
    const MatrixView<T> sum = frame.template matrix<T>(core.rows, core.cols);
    B::template copy<T>(ctx, residual_.matrix(rows_, cols_), sum);
    B::template add<T>(ctx, T(1), MatrixView<const T>(core), sum);
    return top(ctx, sum, s, policy);
  }

  /// Memory for the residual of a core [r, c], at 0 where the extents are new: `keep` then allocates nothing.
  void reserve(Context& ctx, index_t rows, index_t cols) {
    if (rows == rows_ && cols == cols_) return;
    residual_.resize(ctx, rows * cols);
    rows_ = rows;
    cols_ = cols;
  }

  /// E <- core + E - S, after the step with the S that was selected from this core.
  void keep(Context& ctx, ConstMatrixView<T> core, const Gradient& s) {
    detail::require_core(core, s);
    if (residual_.empty()) reserve(ctx, core.rows, core.cols);
    require_residual(core);
    const MatrixView<T> residual = residual_.matrix(rows_, cols_);
    if (s.dense()) return B::template zero<T>(ctx, residual.data, residual.size());
    auto frame = ctx.frame();
    T* zeros = frame.template take<T>(s.count());
    B::template zero<T>(ctx, zeros, s.count());
    B::template add<T>(ctx, T(1), core, residual);
    B::template scatter<T>(ctx, zeros, s.indices(), s.count(), residual.data);
  }

  /// E = 0: for another basis, in which the old residual has no meaning.
  void reset() {
    residual_.release();
    rows_ = cols_ = 0;
  }

  /// E [r, c]; empty before the first `keep` or `reserve`, when it is 0.
  MatrixView<const T> residual() const { return residual_.matrix(rows_, cols_); }
  index_t bytes() const { return residual_.bytes(); }

  /// E in host memory, row by row, and back: for files. Throws ShapeError unless there are rows * cols numbers.
  std::vector<T> host_residual(Context& ctx) const {
    std::vector<T> host(static_cast<std::size_t>(residual_.size()));
    if (!host.empty()) B::template download<T>(ctx, residual_.data(), host.data(), residual_.size());
    return host;
  }
  void restore(Context& ctx, index_t rows, index_t cols, std::span<const T> values) {
    if (static_cast<index_t>(values.size()) != rows * cols) {
      throw ShapeError("the residual has " + std::to_string(values.size()) + " numbers, expected " +
                       std::to_string(rows * cols) + " for a core of " + shape_text(rows, cols));
    }
    reserve(ctx, rows, cols);
    if (!values.empty()) B::template upload<T>(ctx, values.data(), residual_.data(), residual_.size());
  }

 private:
  void require_residual(ConstMatrixView<T> core) const {
    require_shape("core", core.rows, core.cols, rows_, cols_, "rows x cols of the residual");
  }

  Buffer<T, B> residual_;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

}  // namespace sparsegrad
