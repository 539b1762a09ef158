#pragma once

#include <algorithm>
#include <cmath>

#include <sparsegrad/core/backend.hpp>

#include "models/mlp/trained_matrix.hpp"

namespace sparsegrad::finetune {

/// meProp (Sun et al., 2017): of each row of `dy` the k entries of largest magnitude stay, the others become 0.
template <class T, class Backend>
void keep_largest_of_rows(typename Backend::Context& ctx, index_t k, MatrixView<T> dy) {
  if (k >= dy.cols) return;
  if constexpr (is_low_precision<T>) {
    auto frame = ctx.frame();
    const MatrixView<compute_t<T>> wide = frame.template matrix<compute_t<T>>(dy.rows, dy.cols);
    Backend::template widen<T>(ctx, dy, wide);
    keep_largest_of_rows<compute_t<T>, Backend>(ctx, k, wide);
    Backend::template round_to<T>(ctx, wide, dy);
  } else if constexpr (requires { Backend::template keep_largest_of_rows<T>(ctx, k, dy); }) {
    Backend::template keep_largest_of_rows<T>(ctx, k, dy);
  } else {
    auto frame = ctx.frame();
    auto* index = frame.template take<stored_index_t>(k);
    T* value = frame.template take<T>(k);
    for (index_t i = 0; i < dy.rows; ++i) {
      Backend::template top_k<T>(ctx, dy.row(i), dy.cols, k, index, value);
      Backend::template zero<T>(ctx, dy.row(i), dy.cols);
      Backend::template scatter<T>(ctx, value, index, k, dy.row(i));
    }
  }
}

/// Trained from the largest entries of each row of dy alone: run type meprop.
template <class T, class Backend>
class MepropMatrix final : public TrainedMatrix<T, Backend> {
 public:
  using Context = typename Backend::Context;
  using Layer = SparseGradLinear<T, Backend>;

  /// `share` in (0, 1]: of the entries of a row, rounded up.
  MepropMatrix(Layer& layer, double share) : TrainedMatrix<T, Backend>(layer), share_(share) {}

  bool changes_dy() const override { return true; }
  void backward(Context& ctx, MatrixView<T> dy, MatrixView<const T> x, MatrixView<T> saved,
                MatrixView<T> work, MatrixView<T> dx, InputGradient mode) override {
    const auto k = static_cast<index_t>(std::ceil(share_ * static_cast<double>(dy.cols)));
    keep_largest_of_rows<T, Backend>(ctx, std::clamp<index_t>(k, 1, dy.cols), dy);
    TrainedMatrix<T, Backend>::backward(ctx, dy, x, saved, work, dx, mode);
  }

 private:
  double share_;
};

}  // namespace sparsegrad::finetune
