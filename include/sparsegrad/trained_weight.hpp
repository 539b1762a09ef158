// TrainedWeight: the matrix that updates go to, and the products of a linear layer with it.
#pragma once

#include <string>

#include "core/backend.hpp"
#include "core/overlap.hpp"
#include "core/weight_layout.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Non-owning view of a weight that is trained: W [out, in], or [in, out] by layout.
///
/// A W of 16 bits (T = bfloat16, float16) is the rounded copy of a master in C = float, to which
/// updates go; otherwise the weight is its own master.
template <class T>
struct TrainedWeight {
  /// The type of sums, bases and updates.
  using C = compute_t<T>;

  /// W as the layer reads it.
  MatrixView<T> weight;
  /// Where updates go: W itself, or the float master of a W of 16 bits.
  MatrixView<C> master;
  /// How the weight is stored.
  WeightLayout layout = WeightLayout::out_in;

  TrainedWeight() = default;
  /// Throws ShapeError when the weight is empty; ValueError when it has 16 bits, which needs a
  /// master.
  TrainedWeight(MatrixView<T> w, WeightLayout weight_layout) : weight(w), layout(weight_layout) {
    require_extents();
    if constexpr (is_low_precision<T>) {
      throw ValueError(
          "a layer that trains a weight of 16 bits needs a float master of it, given behind the weight: "
          "updates below half a unit of its last place would be lost");
    } else {
      master = w;
    }
  }
  /// The same with the master of a W of 16 bits, of its shape and layout. Throws ShapeError;
  /// ValueError when the two overlap.
  TrainedWeight(MatrixView<T> w, MatrixView<C> float_master,
                WeightLayout weight_layout) requires(is_low_precision<T>)
      : weight(w), master(float_master), layout(weight_layout) {
    require_extents();
    require_shape("master", master.rows, master.cols, weight.rows, weight.cols, "extents of the weight");
    require_apart("the weight", weight, "its master", master);
  }

  /// A weight of these extents that is kept elsewhere, in whatever form: no memory is referred to.
  /// Throws ShapeError when it has no elements.
  static TrainedWeight elsewhere(index_t out, index_t in) {
    TrainedWeight w;
    w.weight.rows = w.master.rows = out;
    w.weight.cols = w.master.cols = in;
    w.weight.stride = w.master.stride = in;
    w.require_extents();
    return w;
  }

  /// Extent of the out side.
  index_t out_extent() const { return layout == WeightLayout::out_in ? weight.rows : weight.cols; }
  /// Extent of the in side.
  index_t in_extent() const { return layout == WeightLayout::out_in ? weight.cols : weight.rows; }
  /// Whether there is no weight in memory.
  bool empty() const { return weight.data == nullptr; }
  /// Whether an update of one would change the other.
  bool overlaps(const TrainedWeight& other) const {
    if (empty() || other.empty()) return false;
    if (overlap(weight, other.weight) || overlap(master, other.master)) return true;
    return is_low_precision<T> && (overlap(weight, other.master) || overlap(master, other.weight));
  }
  /// Refers to `moved` from now on: the same weight, which the engine has moved in memory. Throws
  /// ShapeError when its extents or its layout are others. Nothing is copied or rounded.
  void rebind(const TrainedWeight& moved) {
    require_shape("weight", moved.weight.rows, moved.weight.cols, weight.rows, weight.cols,
                  "extents of the weight before");
    if (moved.layout != layout) throw ShapeError("weight: its layout is another than before");
    *this = moved;
  }

  /// W = round(master); nothing where the weight is its own master, or kept elsewhere.
  template <Backend B>
  void round(typename B::Context& ctx) const {
    if constexpr (is_low_precision<T>) {
      if (!empty()) B::template round_to<T>(ctx, master, weight);
    }
  }

 private:
  void require_extents() const {
    if (weight.empty()) {
      throw ShapeError("weight is " + shape_text(weight.rows, weight.cols) + ", expected positive extents");
    }
  }
};

/// What becomes of what stood in dX.
enum class InputGradient {
  overwrite,  ///< dX = dY W
  add,        ///< dX += dY W: residual branches, several heads on one input
};

/// Throws ValueError when Y, or the memory for x U, overlaps what a layer's forward reads. The bias
/// [out] may be null.
template <class T>
void require_forward_apart(MatrixView<const T> w, const T* bias, MatrixView<const T> x, MatrixView<T> y,
                           MatrixView<T> keep) {
  require_apart("Y", y, "X", x);
  require_apart("Y", y, "the weight", w);
  require_apart("the memory for x U", keep, "Y", y);
  require_apart("the memory for x U", keep, "the weight", w);
  if (bias == nullptr) return;
  const MatrixView<const T> b(bias, 1, y.cols);
  require_apart("Y", y, "the bias", b);
  require_apart("the memory for x U", keep, "the bias", b);
}

/// Throws ValueError when what a layer's backward writes, dX and db [out] (may be null), overlaps
/// what is read then or in later passes: dY, weight, bias, or each other. X may be in dX: it was
/// read before.
template <class T>
void require_backward_apart(MatrixView<const T> w, const T* bias, MatrixView<const T> dy, MatrixView<T> dx,
                            compute_t<T>* db) {
  require_apart("dX", dx, "dY", dy);
  require_apart("dX", dx, "the weight", w);
  const MatrixView<const T> b(bias, bias == nullptr ? 0 : 1, dy.cols);
  require_apart("dX", dx, "the bias", b);
  if (db == nullptr) return;
  const MatrixView<compute_t<T>> sums(db, 1, dy.cols);
  require_apart("db", sums, "dY", dy);
  require_apart("db", sums, "the weight", w);
  require_apart("db", sums, "the bias", b);
  require_apart("dX", dx, "db", sums);
}

/// Y = X W^T + b, X [tokens, in], Y [tokens, out], b [out] or null. Y overlaps neither X nor W.
template <Backend B, class T>
void linear_forward(typename B::Context& ctx, MatrixView<const T> w, WeightLayout layout, const T* bias,
                    MatrixView<const T> x, MatrixView<T> y) {
  using C = compute_t<T>;
  const Op op = layout == WeightLayout::out_in ? Op::transpose : Op::none;
  B::template gemm<T>(ctx, Op::none, op, C(1), x, w, C(0), y);
  if (bias != nullptr) B::template add_to_rows<T>(ctx, bias, y);
}

/// dX = dY W, or dX += dY W, dY [tokens, out], dX [tokens, in]. dX overlaps neither dY nor W.
template <Backend B, class T>
void linear_input_gradient(typename B::Context& ctx, MatrixView<const T> w, WeightLayout layout,
                           MatrixView<const T> dy, InputGradient mode, MatrixView<T> dx) {
  using C = compute_t<T>;
  const Op op = layout == WeightLayout::out_in ? Op::none : Op::transpose;
  B::template gemm<T>(ctx, Op::none, op, C(1), dy, w, mode == InputGradient::add ? C(1) : C(0), dx);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
