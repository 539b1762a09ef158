// The small types that cross the border between the algorithms and a backend.
#pragma once

#include <cstdint>

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Which index of a matrix `hadamard` acts on.
enum class TransformSide {
  rows,     ///< each row x becomes H x (acts on the column index)
  columns,  ///< each column x becomes H x (acts on the row index)
};

/// What becomes of NaN and Inf in a gradient at selection.
enum class NonFinite {
  raise,      ///< NonFiniteError; nothing has changed
  skip,       ///< the step is skipped; nothing has changed
  propagate,  ///< they count as the largest values, |NaN| above Inf, and reach the weights
};

/// Hyper-parameters of one update by Adam, in the form that the kernels use (see sparse_adam.hpp).
struct AdamCoefficients {
  /// Learning rate.
  double learning_rate = 0;
  double grad_scale = 1;  ///< the gradient is multiplied by it first
  /// Decay of the first moments m.
  double beta1 = 0.9;
  /// Decay of the second moments v.
  double beta2 = 0.999;
  /// Added to the root of v, against division by 0.
  double eps = 1e-8;
  std::int64_t step =
      1;  ///< t of the bias corrections, from 1; unused where entries have counts of their own
  bool eps_uncorrected =
      false;  ///< eps beside sqrt(v) as torch.optim.SparseAdam, else beside sqrt(v / (1 - beta2^t))
};

/// One array of `top_k_batched`. With k == n `index` may be null: the values are copied in their
/// order.
template <class T>
struct TopKTask {
  /// The array [n].
  const T* x = nullptr;
  /// Its number of elements.
  index_t n = 0;
  /// Number of entries.
  index_t k = 0;
  /// Positions [k] of the selected elements, rising.
  stored_index_t* index = nullptr;
  /// Values [k] of the selected elements.
  T* value = nullptr;
};

/// One state of `adam_batched`. Unlike adam's, the update of number e of the gradient goes to
/// d[entry[e]], where its moments are in m and v; d may be g.
template <class T>
struct AdamTask {
  /// Gradient [k].
  const T* g = nullptr;
  const stored_index_t* entry = nullptr;  ///< null: e
  /// Number of entries.
  index_t k = 0;
  /// First moments.
  T* m = nullptr;
  /// Second moments.
  T* v = nullptr;
  std::int32_t* count = nullptr;  ///< null, or the entries' own steps
  /// Update, -lr included.
  T* d = nullptr;
  std::int64_t step = 1;  ///< t of this state
  std::int64_t* counter =
      nullptr;  ///< null, or in the backend's memory: raised by 1, then used in place of `step`
};

/// What `group_support` writes: the k entries of a support, index[e] = i cols + j, in groups of one
/// row i (or, with `columns`, of one column j), groups by rising number, entries in a group by
/// rising other coordinate.
///
///     order[p]   entry that stands at place p          other[p]   its coordinate within the group
///     group[p]   number of its group, 0 .. q - 1       list[s]    row (column) of group s
///
/// Rows 2, cols 3, index {1, 3, 4}: by rows list {0, 1}, group {0, 1, 1}, other {1, 0, 1}, order
/// {0, 1, 2}; by columns list {0, 1}, group {0, 1, 1}, other {1, 0, 1}, order {1, 0, 2}.
struct GroupedSupport {
  /// Group of each entry in grouped order [k].
  stored_index_t* group = nullptr;
  /// Other coordinate of each entry in grouped order [k].
  stored_index_t* other = nullptr;
  /// Entry at each place of the grouped order [k].
  stored_index_t* order = nullptr;
  /// Row or column of each group [groups], rising.
  stored_index_t* list = nullptr;
  /// Number of groups.
  index_t groups = 0;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
