// BatchedWeightUpdate: the updates of many weights, those of one shape by common products.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "product_batch.hpp"
#include "weight_update.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The updates of many weights, each kind of work once for all of them, on a BatchedBackend:
///
///     W <- keep W + V D U^T    for dense arrays D [r, c] of which all but `count` entries are 0
///
/// On a GPU one such update is too small to fill it, and a launch costs more than it does. Weights of
/// one shape take their products together.
template <class T, Backend B>
class BatchedWeightUpdate {
 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;

  /// One weight; what it points to must live until `run`.
  struct Task {
    /// W.
    const TrainedWeight<T>* weight = nullptr;
    /// V and U.
    const TuckerBasis<C, B>* basis = nullptr;
    /// Chooses the order of the products.
    const CostModel* model = nullptr;
    /// Of products of a basis that rotates both sides; available in the context.
    RotationPrecision rotations = RotationPrecision::full;
    /// D [r, c].
    MatrixView<const C> d;
    index_t count = 0;  ///< entries of D that are not 0
  };

  /// Forgets the tasks and keeps the memory.
  void clear() { tasks_.clear(); }
  /// Adds one weight's update.
  void add(const Task& task) { tasks_.push_back({task, Way::alone, tasks_.size()}); }

  /// Where the guard stops, D is 0 and W does not decay. Takes scratch memory as
  /// BatchedProjection::scratch_bytes says.
  void run(Context& ctx, double decay, StepGuard guard) {
    auto keep = static_cast<C>(1 - decay);
    if (guard.word != nullptr && decay != 0) {
      // Whether W decays is known on the device alone, and a product takes its factor from the
      // host.
      decay_weights(ctx, keep, guard);
      keep = C(1);
    }
    for (Item& item : tasks_)
      item.way = way_of(ctx, item.task);
    std::sort(tasks_.begin(), tasks_.end());
    detail::for_each_shape(tasks_, [&](std::span<Item> items) {
      if (items.front().way == Way::alone) return update_alone(ctx, items, keep);
      if (items.front().way == Way::one_side) return update_one_side(ctx, items, keep);
      const auto [rows, cols] = panel_shape(items.front());
      const index_t bytes = rows * cols * static_cast<index_t>(sizeof(C));
      detail::for_each_batch(items, detail::batch_size(static_cast<index_t>(items.size()), bytes),
                             [&](std::span<Item> batch) { update_both_sides(ctx, batch, keep); });
    });
    for (const Item& item : tasks_)
      item.task.weight->template round<B>(ctx);
  }

 private:
  /// How an update is made.
  enum class Way {
    alone,     ///< by itself
    one_side,  ///< by one product: the other side is the identity
    columns,   ///< by two, W += R (D C^T)
    rows,      ///< by two, W += (R D) C^T
    entries,   ///< the first reads the entries of D that are not 0 alone
  };
  struct Item {
    Task task;
    Way way = Way::alone;
    std::size_t number = 0;

    /// Equal for products of one shape.
    auto shape() const {
      const auto& out = task.basis->out();
      const auto& in = task.basis->in();
      return std::tuple(way, task.weight->layout, out.extent(), in.extent(), out.rank(), in.rank(),
                        out.has_factor(), task.weight->master.stride);
    }
    bool operator<(const Item& other) const {
      return std::tuple_cat(shape(), std::tuple(number)) <
             std::tuple_cat(other.shape(), std::tuple(other.number));
    }
  };

  static Way way_of(const Context& ctx, const Task& task) {
    const auto& out = task.basis->out();
    const auto& in = task.basis->in();
    if (out.has_factor() ? !in.rotates() : in.has_factor() && !out.rotates()) return Way::one_side;
    if (!out.has_factor() || !in.has_factor() || task.rotations != RotationPrecision::full) return Way::alone;
    if (expands_entries(ctx, task)) return Way::entries;
    return task.model->expands_columns_first(shape_of(rows_of(task)), shape_of(cols_of(task))) ? Way::columns
                                                                                               : Way::rows;
  }
  /// Two factors and an update of few entries: the first product reads the entries alone, with no
  /// list of them and nothing to wait for.
  static bool expands_entries(const Context& ctx, const Task& task) {
    return task.count < task.d.size() &&
           (std::max)(task.basis->rows(), task.basis->cols()) <= B::most_expanded &&
           B::expansion_cost(ctx) * static_cast<double>(task.count) < static_cast<double>(task.d.size());
  }
  static bool out_in(const Task& task) { return task.weight->layout == WeightLayout::out_in; }
  /// The sides that give the rows and the columns of W.
  static const BasisSide<C, B>& rows_of(const Task& task) {
    return out_in(task) ? task.basis->out() : task.basis->in();
  }
  static const BasisSide<C, B>& cols_of(const Task& task) {
    return out_in(task) ? task.basis->in() : task.basis->out();
  }

  static void update_alone(Context& ctx, std::span<const Item> items, C keep) {
    for (const Item& item : items) {
      const Task& task = item.task;
      if (keep != C(1)) B::template scale<C>(ctx, keep, task.weight->master);
      detail::expand_dense<C, B>(ctx, detail::BasisRotations<C, B>(ctx, *task.basis, task.rotations), task.d,
                                 task.weight->layout, *task.model, task.weight->master);
    }
  }

  /// With D [r, in] and V^T [r, out]:  W [out, in] += V D,   or  W [in, out] += D^T V^T;
  /// with D [out, c] and U^T [c, in]:  W [out, in] += D U^T, or  W [in, out] += U D^T.
  void update_one_side(Context& ctx, std::span<const Item> items, C keep) {
    const Task& like = items.front().task;
    const bool factor_left = rows_of(like).has_factor();
    for (const Item& item : items) {
      const MatrixView<const C> d = item.task.d;
      if (factor_left) {
        products_.add(rows_of(item.task).factor(), d, item.task.weight->master);
      } else {
        products_.add(d, cols_of(item.task).factor(), item.task.weight->master);
      }
    }
    const Op op_d = out_in(like) ? Op::none : Op::transpose;
    products_.run(ctx, factor_left ? Op::transpose : op_d, factor_left ? op_d : Op::none, keep);
  }

  /// What the first of two products makes: [rank, columns of W], or [rows of W, rank]. Of few entries
  ///
  ///     P [c, out] = (V D)^T     or     P [r, in] = D U^T
  ///
  /// along the side of more vectors, so that the dense product has the fewer.
  static std::pair<index_t, index_t> panel_shape(const Item& item) {
    if (item.way == Way::columns) return {rows_of(item.task).rank(), cols_of(item.task).extent()};
    if (item.way == Way::rows) return {rows_of(item.task).extent(), cols_of(item.task).rank()};
    return {dense_side(item.task).rank(), sparse_side(item.task).extent()};
  }
  static bool along_columns(const Task& task) { return task.basis->rows() >= task.basis->cols(); }
  static const BasisSide<C, B>& sparse_side(const Task& task) {
    return along_columns(task) ? task.basis->out() : task.basis->in();
  }
  static const BasisSide<C, B>& dense_side(const Task& task) {
    return along_columns(task) ? task.basis->in() : task.basis->out();
  }

  void update_both_sides(Context& ctx, std::span<const Item> items, C keep) {
    const Way way = items.front().way;
    const Task& like = items.front().task;
    auto frame = ctx.frame();
    panels_.clear();
    for (const Item& item : items) {
      const auto [rows, cols] = panel_shape(item);
      panels_.push_back(frame.template matrix<C>(rows, cols));
      const Task& task = item.task;
      if (way == Way::entries) {
        B::template expand_nonzeros<C>(ctx, task.d, along_columns(task), sparse_side(task).factor(),
                                       panels_.back());
      } else if (way == Way::columns) {
        products_.add(task.d, cols_of(task).factor(), panels_.back());
      } else {
        products_.add(rows_of(task).factor(), task.d, panels_.back());
      }
    }
    const Op op_d = out_in(like) ? Op::none : Op::transpose;
    if (way == Way::columns) products_.run(ctx, op_d, Op::none, C(0));
    if (way == Way::rows) products_.run(ctx, Op::transpose, op_d, C(0));

    // Of few entries: rows of W are those of the side whose matrix stands left.
    const bool panel_left = way == Way::rows || (way == Way::entries && along_columns(like) == out_in(like));
    for (std::size_t t = 0; t < items.size(); ++t) {
      const Task& task = items[t].task;
      const MatrixView<const C> panel = panels_[t];
      const MatrixView<const C> factor = panel_left ? cols_of(task).factor() : rows_of(task).factor();
      products_.add(panel_left ? panel : factor, panel_left ? factor : panel, task.weight->master);
    }
    products_.run(ctx, way == Way::rows ? Op::none : Op::transpose, Op::none, keep);
  }

  void decay_weights(Context& ctx, C keep, StepGuard guard) {
    weights_.clear();
    for (const Item& item : tasks_) {
      const MatrixView<C> w = item.task.weight->master;
      if (w.contiguous()) {
        weights_.push_back(w);
        continue;
      }
      for (index_t i = 0; i < w.rows; ++i)
        weights_.push_back(w.block(i, 0, 1, w.cols));
    }
    B::template scale_batched<C>(ctx, keep, std::span<const MatrixView<C>>(weights_), guard);
  }

  // Kept from step to step, so that a step takes no memory.
  std::vector<Item> tasks_;
  std::vector<MatrixView<C>> panels_, weights_;
  detail::ProductBatch<C, B> products_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
