// A weight matrix that is not trained, in memory or packed, in a model's products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "models/layers/linear.hpp"
#include "models/layers/placed_batch.hpp"
#include "models/mlp/accumulated_update.hpp"
#include "models/mlp/packed_product.hpp"
#include "models/model_error.hpp"
#include "models/parameters/parameter_set.hpp"

namespace sparsegrad::finetune {

/// W [out, in] of y = x W^T. One that is packed is unpacked into the context's scratch within the products:
/// some rows at a time for x W^T, some columns at a time for dy W, so that each element of a result is one
/// sum over the whole depth, as it is of a matrix in memory. All threads of the context unpack; results do
/// not depend on their number.
///
/// With an update that is kept beside it W is unpacked as a whole, and the update is added to it.
template <class T, class Backend>
class FrozenWeight {
 public:
  using C = compute_t<T>;
  using Context = typename Backend::Context;
  using Update = AccumulatedUpdate<C, Backend>;

  /// Elements that are unpacked at a time, where that is no less than a row or a block of columns.
  static constexpr index_t piece = index_t{1} << 21;

  FrozenWeight() = default;
  explicit FrozenWeight(MatrixView<const T> weight) : weight_(weight) {}
  /// `update`, which must outlive this, is what has been added to a packed one. Throws ModelError for a packed one on a
  /// GPU.
  explicit FrozenWeight(const Parameter<T>& p, const Update* update = nullptr)
      : weight_(p.factor()), packed_(p.packed), update_(update) {
    if (ThrustBackend<Backend> && packed_ != nullptr)
      throw ModelError(p.name + ": weights that stay quantised are for the CPU alone");
  }

  /// y = x W^T.
  void forward(Context& ctx, MatrixView<const T> x, MatrixView<T> y) const {
    if (is_read_by_rows(x)) return packed_rows<T>(ctx, x, y);
    by_rows(ctx, [&](MatrixView<const T> w, index_t first) {
      Backend::template gemm<T>(ctx, Op::none, Op::transpose, C(1), x, w, C(0),
                                y.block(0, first, y.rows, w.rows));
    });
  }
  /// The same in C.
  void forward_wide(Context& ctx, MatrixView<const T> x, MatrixView<C> y) const {
    if (is_read_by_rows(x)) return packed_rows<C>(ctx, x, y);
    by_rows(ctx, [&](MatrixView<const T> w, index_t first) {
      wide_product<T, Backend>(ctx, Op::none, Op::transpose, C(1), x, w, C(0),
                               y.block(0, first, y.rows, w.rows));
    });
  }
  /// dx = dy W + beta dx; skipped when it is empty.
  void backward(Context& ctx, MatrixView<const T> dy, C beta, MatrixView<T> dx) const {
    if (dx.empty()) return;
    by_columns(ctx, [&](MatrixView<const T> w, index_t first) {
      Backend::template gemm<T>(ctx, Op::none, Op::none, C(1), dy, w, beta,
                                dx.block(0, first, dx.rows, w.cols));
    });
  }
  /// x.row(i) = W's row ids[i], which is packed.
  void take_rows(Context& ctx, const std::vector<std::int32_t>& ids, MatrixView<T> x) const {
    if constexpr (!ThrustBackend<Backend>) {
      packed_->require_whole();
      auto frame = ctx.frame();
      float* const wide = frame.template take<float>(ctx.threads() * packed_->cols());
      ctx.parallel_for(x.rows, [&](index_t i, int worker) {
        unpack(ids[static_cast<std::size_t>(i)], 0, packed_->cols(), wide, worker, x.row(i));
      });
    }
  }

  bool is_packed() const { return packed_ != nullptr; }

  /// Scratch that the products of a packed matrix take beside that of the backend's own.
  static index_t scratch_bytes(const PackedMatrix& w, index_t threads) {
    const index_t most = std::max(rows_at_once(w) * w.cols(), columns_at_once(w) * w.rows());
    return most * static_cast<index_t>(sizeof(T)) + threads * w.cols() * static_cast<index_t>(sizeof(float)) +
           4096;
  }
  /// The same with an update, beside what that takes itself (AccumulatedUpdate::scratch_bytes).
  static index_t updated_scratch_bytes(index_t rows, index_t cols, index_t threads) {
    const index_t element = static_cast<index_t>(sizeof(C) + (is_low_precision<T> ? sizeof(T) : 0));
    return rows * cols * element + threads * cols * static_cast<index_t>(sizeof(float)) + 4096;
  }

 private:
  static index_t rows_at_once(const PackedMatrix& w) {
    return std::clamp<index_t>(piece / std::max<index_t>(w.cols(), 1), 1, std::max<index_t>(w.rows(), 1));
  }
  static index_t columns_at_once(const PackedMatrix& w) {
    const index_t blocks =
        std::max<index_t>(piece / (w.block() * std::max<index_t>(w.rows(), 1)), index_t{1});
    return std::min(blocks * w.block(), w.cols());
  }

  /// Calls f(rows of W, the first's number).
  template <class F>
  void by_rows(Context& ctx, F&& f) const {
    if (packed_ == nullptr) return f(weight_, 0);
    if (has_update()) return with_updated(ctx, f);
    const index_t step = rows_at_once(*packed_);
    for (index_t first = 0; first < packed_->rows(); first += step)
      with_piece(ctx, first, std::min(step, packed_->rows() - first), 0, packed_->cols(), f, first);
  }
  /// Calls f(columns of W, the first's number).
  template <class F>
  void by_columns(Context& ctx, F&& f) const {
    if (packed_ == nullptr) return f(weight_, 0);
    if (has_update()) return with_updated(ctx, f);
    const index_t step = columns_at_once(*packed_);
    for (index_t first = 0; first < packed_->cols(); first += step)
      with_piece(ctx, 0, packed_->rows(), first, std::min(step, packed_->cols() - first), f, first);
  }

  /// Whether W is packed and so few rows are multiplied that none of it need be unpacked for longer than a
  /// row's product.
  bool is_read_by_rows(MatrixView<const T> x) const {
    return packed_ != nullptr && !has_update() && x.rows <= few_rows;
  }
  template <class Out>
  void packed_rows(Context& ctx, MatrixView<const T> x, MatrixView<Out> y) const {
    if constexpr (!ThrustBackend<Backend>) packed_product<T, Out>(ctx, x, *packed_, y);
  }
  bool has_update() const { return update_ != nullptr && !update_->empty(); }

  template <class F>
  void with_piece(Context& ctx, index_t row, index_t rows, index_t col, index_t cols, F& f,
                  index_t first) const {
    if constexpr (!ThrustBackend<Backend>) {
      auto frame = ctx.frame();
      const MatrixView<T> w = frame.template matrix<T>(rows, cols);
      unpack_piece(ctx, row, col, w);
      f(MatrixView<const T>(w), first);
    }
  }
  /// Calls f(all of W with its update, 0).
  template <class F>
  void with_updated(Context& ctx, F& f) const {
    if constexpr (!ThrustBackend<Backend>) {
      auto frame = ctx.frame();
      const MatrixView<C> wide = frame.template matrix<C>(packed_->rows(), packed_->cols());
      unpack_piece(ctx, 0, 0, wide);
      update_->apply(ctx, wide);
      if constexpr (is_low_precision<T>) {
        const MatrixView<T> rounded = frame.template matrix<T>(wide.rows, wide.cols);
        Backend::template round_to<T>(ctx, wide, rounded);
        f(MatrixView<const T>(rounded), 0);
      } else {
        f(MatrixView<const T>(wide), 0);
      }
    }
  }

  /// w = the part of W that begins at row `row` and column `col`.
  template <class V>
  void unpack_piece(Context& ctx, index_t row, index_t col, MatrixView<V> w) const {
    packed_->require_whole();
    auto frame = ctx.frame();
    float* const wide = frame.template take<float>(ctx.threads() * w.cols);
    constexpr index_t grain = 8;
    ctx.parallel_for((w.rows + grain - 1) / grain, [&](index_t task, int worker) {
      for (index_t i = task * grain; i < std::min(w.rows, (task + 1) * grain); ++i)
        unpack(row + i, col, col + w.cols, wide, worker, w.row(i));
    });
  }

  /// `wide` has a part for each worker.
  template <class V>
  void unpack(index_t row, index_t first, index_t last, float* wide, int worker, V* to) const {
    if constexpr (std::is_same_v<V, float>) {
      packed_->read(row, first, last, to);
    } else {
      float* const values = wide + worker * (last - first);
      packed_->read(row, first, last, values);
      round_numbers(values, last - first, to);
    }
  }

  MatrixView<const T> weight_;
  std::shared_ptr<const PackedMatrix> packed_;
  const Update* update_ = nullptr;
};

}  // namespace sparsegrad::finetune
