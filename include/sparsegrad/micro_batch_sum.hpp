// MicroBatchSum: a gradient of several micro-batches, added in their order.
#pragma once

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The sum ((g0 + g1) + g2) + ... of one layer's gradients, each made by itself: the bits of processes
/// that have one of them each and add them in that order.
template <class C, Backend B>
class MicroBatchSum {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// Whether nothing waits to be added to the last one.
  bool empty() const { return !holds_; }
  /// Whether there was any since `clear`.
  bool used() const { return used_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return sum_.bytes(); }

  /// Adds a micro-batch's gradient, contiguous, of the same extents as those before.
  void add(Context& ctx, ConstMatrixView<C> g) {
    if (!holds_) {
      if (sum_.size() != g.size()) sum_.resize(ctx, g.size());
      B::template copy<C>(ctx, row(g), sum_.matrix(1, g.size()));
    } else {
      B::template add<C>(ctx, C(1), row(g), sum_.matrix(1, g.size()));
    }
    holds_ = used_ = true;
  }
  /// Makes `last`, the gradient of the last micro-batch, that of all; returns it. `has_last`: whether
  /// there is one, or it is 0.
  MatrixView<C> add_to(Context& ctx, MatrixView<C> last, bool has_last) {
    if (!holds_) return last;
    holds_ = false;
    const MatrixView<C> flat(last.data, 1, last.size());
    if (has_last) {
      B::template add<C>(ctx, C(1), sum_.matrix(1, last.size()), flat);
    } else {
      B::template copy<C>(ctx, sum_.matrix(1, last.size()), flat);
    }
    return last;
  }
  /// Forgets the sum, and keeps its memory.
  void clear() { holds_ = used_ = false; }

 private:
  static MatrixView<const C> row(MatrixView<const C> g) { return MatrixView<const C>(g.data, 1, g.size()); }

  Buffer<C, B> sum_;
  bool holds_ = false;
  bool used_ = false;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
