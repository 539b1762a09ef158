// A weight matrix of an MLP within a model's passes.
#pragma once

#include <span>

#include <sparsegrad/core/low_precision.hpp>
#include <sparsegrad/core/view.hpp>
#include <sparsegrad/trained_weight.hpp>

namespace sparsegrad::finetune {

/// One weight matrix W [out, in] of an MLP: its products in forward and backward, as the way in which it is trained asks
/// for them. Each way is a class; a model makes its matrices once (make_mlp_matrices) and never asks which they are.
///
/// The model lends the memory of a pass. What a matrix wants of it may change between passes, with its basis.
template <class T, class Backend>
class MlpMatrix {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;

  MlpMatrix() = default;
  MlpMatrix(const MlpMatrix&) = delete;
  MlpMatrix& operator=(const MlpMatrix&) = delete;
  virtual ~MlpMatrix() = default;

  /// Columns of `saved` [tokens, columns], which lives from forward to backward; of passes that are no training: of
  /// forward's working memory.
  virtual index_t saved_cols(bool training) const = 0;
  /// Columns of `work` [tokens, columns] in backward.
  virtual index_t work_cols() const { return 0; }
  /// Whether backward needs the `x` of forward.
  virtual bool keeps_input() const { return true; }
  /// Whether backward changes `dy`.
  virtual bool changes_dy() const { return false; }

  /// y = x W^T [tokens, out], with what an adapter adds.
  virtual void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> saved, MatrixView<T> y) = 0;
  /// dx = dy W, with what an adapter adds (written, or added to by `mode`; skipped when empty); adds to the gradients of
  /// what is trained here.
  virtual void backward(Context& ctx, MatrixView<T> dy, MatrixView<const T> x, MatrixView<T> saved,
                        MatrixView<T> work, MatrixView<T> dx, InputGradient mode) = 0;

  /// Makes W's values those of a matrix that does without the adapter, for a saved model. False where there is none.
  virtual bool merge(Context&, std::span<C> values) const {
    (void)values;
    return false;
  }
};

}  // namespace sparsegrad::finetune
