// The contract between the algorithms and the machine: the primitives that a backend supplies.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "config.hpp"
#include "error.hpp"
#include "low_precision.hpp"
#include "step_guard.hpp"
#include "view.hpp"

namespace sparsegrad {

/// Which index of a matrix a fast transform acts on.
enum class TransformSide {
  rows,     ///< each row x becomes H x (acts on the column index)
  columns,  ///< each column x becomes H x (acts on the row index)
};

/// What becomes of NaN and Inf in a gradient at selection.
enum class NonFinite {
  raise,      ///< NonFiniteError; nothing has changed
  skip,       ///< the step is left out; nothing has changed
  propagate,  ///< they count as the largest values, |NaN| above Inf, and reach the weights
};

/// Hyper-parameters of one update by Adam, in the form that the kernels use (see sparse_adam.hpp).
struct AdamCoefficients {
  double learning_rate = 0;
  double grad_scale = 1;  ///< the gradient is multiplied by it first
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  std::int64_t step =
      1;  ///< t of the bias corrections, from 1; unused where entries have counts of their own
  bool eps_uncorrected =
      false;  ///< eps beside sqrt(v) as torch.optim.SparseAdam, else beside sqrt(v / (1 - beta2^t))
};

/// One array of top_k_batched. With k == n `index` may be null: the values are copied in their order.
template <class T>
struct TopKTask {
  const T* x = nullptr;
  index_t n = 0;
  index_t k = 0;
  stored_index_t* index = nullptr;
  T* value = nullptr;
};

/// One state of adam_batched. Unlike adam's, the update of entry e goes to d[slot[e]], where its moments are in m
/// and v, and may go where g[e] was read.
template <class T>
struct AdamTask {
  const T* g = nullptr;
  const stored_index_t* slot = nullptr;  ///< null: e
  index_t k = 0;
  T* m = nullptr;
  T* v = nullptr;
  std::int32_t* count = nullptr;  ///< null, or the entries' own steps
  T* d = nullptr;
  std::int64_t step = 1;  ///< t of this state
  std::int64_t* counter =
      nullptr;  ///< null, or in the backend's memory: raised by 1, then used in place of `step`
};

// clang-format off
/// Concept of a backend. A backend is a type with no state; every function is static, takes the context first
/// and works on views of the backend's own memory. `T` is float or double, C in these tables compute_t<T>. Extents are
/// checked by the callers; any extent may be 0. Aliasing of inputs and outputs is not allowed unless said.
///
/// | type or constant | meaning |
/// |---|---|
/// | `Context` | threads or stream, scratch; of one caller at a time |
/// | `Memory` | where objects' memory comes from: `std::byte* allocate(bytes)` for bytes > 0, which throws where there is none, and `deallocate(p)`, which does not. Copyable; outlives contexts |
/// | `dense_above_density` | density above which V D U^T takes D as a dense matrix whatever the cost model says; 0: always |
///
/// | primitive | result |
/// |---|---|
/// | `memory(ctx)` | the Memory of what is made with a context |
/// | `zero<T>(ctx, p, n)` | p[i] = 0 |
/// | `upload<T>(ctx, host, p, n)`, `download<T>(ctx, p, host, n)` | copies from and to host memory |
/// | `copy<T>(ctx, A, B)` | B = A, any strides |
/// | `transpose<T>(ctx, A, B)` | B = A^T |
/// | `gemm<T>(ctx, op_a, op_b, alpha, A, B, beta, C)` | C = alpha op(A) op(B) + beta C; beta = 0 overwrites NaN |
/// | `gemm_batched<T>(ctx, op_a, op_b, alpha, As, Bs, beta, Cs)` | the same for many small independent products |
/// | `gram<T>(ctx, op, A, weight, G)` | lower triangle of G (double) += weight op(A) op(A)^T; products in T |
/// | `eigh(ctx, A, w)` | rows of A = orthonormal eigenvectors of the symmetric A (lower triangle, double); w descending |
/// | `column_sums<T>(ctx, A, s)` | s[j] += sum_i A(i, j), s of type C |
/// | `add_to_rows<T>(ctx, b, A)` | every row of A += b |
/// | `scale<T>(ctx, alpha, A)` | A *= alpha |
/// | `add<T>(ctx, alpha, A, B)` | B += alpha A |
/// | `add_wide<T>(ctx, alpha, A, B)` | B (double) += alpha A |
/// | `squared_norm<T>(ctx, A)` | sum of squares, in double, on the host |
/// | `first_nonfinite<T>(ctx, A)` | row-major position of the first NaN or Inf, or -1 |
/// | `hadamard<T>(ctx, signs, inverse, side, A)` | A's rows or columns times a randomised block Hadamard, in place |
/// | `top_k<T>(ctx, x, n, k, index, value)` | the k <= n largest by absolute value, by rising index (see top_k.hpp) |
/// | `gather<T>(ctx, x, index, k, value)` | value[e] = x[index[e]] |
/// | `scatter<T>(ctx, value, index, k, x)` | x[index[e]] = value[e] |
/// | `sampled_product<T>(ctx, A, B, index, k, cols, value)` | value[e] += sum_t A(t, i) B(t, j), index[e] = i cols + j; value of type C |
/// | `expand_rows<T>(ctx, row, col, value, k, F, M)` | M.row(row[e]) += value[e] F.row(col[e]); row[] rising |
/// | `scatter_add<T>(ctx, row, col, value, k, M)` | M(row[e], col[e]) += value[e] |
/// | `gather_rows<T>(ctx, F, list, q, P)` | P.row(s) = F.row(list[s]), s < q |
/// | `add_columns<T>(ctx, P, list, M)` | M's column list[s] += P.row(s) |
/// | `scratch_bound<T>(ctx, n)` | bytes of scratch that any primitive takes on arrays of n elements |
/// | `group_support(ctx, index, k, rows, cols, columns, slot, other, order, list)` | the groups of GroupedSupport; returns their number |
/// | `adam<T>(ctx, c, g, slot, k, m, v, count, d)` | the update of sparse_adam.hpp on m[slot[e]], v[slot[e]] |
///
/// Supports merged into a compact state (both lists of positions rise strictly):
///
/// | primitive | result |
/// |---|---|
/// | `locate_entries(ctx, index, k, held, n, slot, fresh)` | slot[e] = place of index[e] in the union of index and held; fresh[0 .. q) = the e not in held, rising (fresh has room for k); returns q |
/// | `insert_entries<T>(ctx, index, slot, fresh, q, held, n, m, v, count)` | held[n] becomes the union [n + q], in place; m, v and count (may be null) move along, 0 at new entries |
///
/// held {2, 5, 9}, index {1, 5, 7}: slot {0, 2, 3}, fresh {0, 2}, q = 2; held becomes {1, 2, 5, 7, 9}.
// clang-format on
template <class B>
concept Backend = requires(typename B::Context& ctx, MatrixView<float> f, MatrixView<double> d, float* x,
                           double* w, const float* in, const stored_index_t* index, stored_index_t* out,
                           index_t n, std::int32_t* count, AdamCoefficients c,
                           std::span<const MatrixView<const float>> inputs,
                           std::span<const MatrixView<float>> outputs) {
  { B::name() } -> std::convertible_to<const char*>;
  { B::dense_above_density } -> std::convertible_to<double>;
  { B::memory(ctx) } -> std::same_as<typename B::Memory>;
  { B::memory(ctx).allocate(std::size_t{1}) } -> std::same_as<std::byte*>;
  B::memory(ctx).deallocate(static_cast<std::byte*>(nullptr));
  B::template zero<float>(ctx, x, n);
  B::template upload<float>(ctx, in, x, n);
  B::template download<float>(ctx, in, x, n);
  B::template copy<float>(ctx, f, f);
  B::template gemm<float>(ctx, Op::none, Op::none, 1.0F, f, f, 0.0F, f);
  B::template gemm_batched<float>(ctx, Op::none, Op::none, 1.0F, inputs, inputs, 0.0F, outputs);
  B::template hadamard<float>(ctx, in, false, TransformSide::rows, f);
  B::template gram<float>(ctx, Op::none, f, 1.0, d);
  B::eigh(ctx, d, w);
  B::template column_sums<float>(ctx, f, x);
  B::template add_to_rows<float>(ctx, x, f);
  B::template scale<float>(ctx, 1.0F, f);
  B::template add<float>(ctx, 1.0F, f, f);
  B::template add_wide<float>(ctx, 1.0, f, d);
  { B::template squared_norm<float>(ctx, f) } -> std::same_as<double>;
  { B::template first_nonfinite<float>(ctx, f) } -> std::same_as<index_t>;
  B::template top_k<float>(ctx, in, n, n, out, x);
  B::template gather<float>(ctx, in, index, n, x);
  B::template sampled_product<float>(ctx, f, f, index, n, n, x);
  B::template expand_rows<float>(ctx, index, index, in, n, f, f);
  B::template transpose<float>(ctx, f, f);
  B::template scatter<float>(ctx, in, index, n, x);
  B::template scatter_add<float>(ctx, index, index, in, n, f);
  B::template gather_rows<float>(ctx, f, index, n, f);
  B::template add_columns<float>(ctx, f, index, f);
  { B::group_support(ctx, index, n, n, n, true, out, out, out, out) } -> std::same_as<index_t>;
  { B::template scratch_bound<float>(ctx, n) } -> std::same_as<index_t>;
  B::template adam<float>(ctx, c, in, index, n, x, x, count, x);
  { B::locate_entries(ctx, index, n, index, n, out, out) } -> std::same_as<index_t>;
  B::template insert_entries<float>(ctx, index, index, index, n, out, n, x, x, count);
};

// clang-format off
/// Concept of a backend that also has layers whose parameters are stored in T = bfloat16 or float16. Numbers are T's in
/// memory and float's in between: a sum is rounded to T once, to nearest, when it is written. C = compute_t<T> = float.
/// zero, upload, download and copy take T as any type; beside them:
///
/// | primitive | result |
/// |---|---|
/// | `widen<T>(ctx, A, B)` | B (C) = A (T), exact |
/// | `round_to<T>(ctx, A, B)` | B (T) = A (C), to nearest, ties to even |
/// | `gemm<T>(ctx, op_a, op_b, alpha, A, B, beta, Y)` | Y (T) = alpha op(A) op(B) + beta Y; A, B in T, alpha and beta in C |
/// | `gemm_wide<T>(ctx, op_a, op_b, alpha, A, B, beta, S)` | the same with S in C |
/// | `column_sums<T>(ctx, A, s)` | s[j] (C) += sum_i A(i, j) |
/// | `add_to_rows<T>(ctx, b, A)` | every row of A += b, both in T |
/// | `sampled_product<T>(ctx, A, B, index, k, cols, value)` | value[e] (C) += sum_t A(t, i) B(t, j) |
// clang-format on
template <class B, class T>
concept LowPrecisionBackend = Backend<B> &&
    requires(typename B::Context& ctx, MatrixView<T> n, MatrixView<compute_t<T>> w, T* x, compute_t<T>* s,
             const stored_index_t* index, index_t k) {
  B::template zero<T>(ctx, x, k);
  B::template copy<T>(ctx, n, n);
  B::template widen<T>(ctx, n, w);
  B::template round_to<T>(ctx, w, n);
  B::template gemm<T>(ctx, Op::none, Op::none, 1.0F, n, n, 0.0F, n);
  B::template gemm_wide<T>(ctx, Op::none, Op::none, 1.0F, n, n, 0.0F, w);
  B::template column_sums<T>(ctx, n, s);
  B::template add_to_rows<T>(ctx, x, n);
  B::template sampled_product<T>(ctx, n, n, index, k, k, s);
};

// clang-format off
/// A backend that does the same small task for many arrays at once, where a launch a task would cost more than the
/// task; SparseGradGroup then takes the steps of all its layers together (batched_step.hpp).
///
/// | primitive | result |
/// |---|---|
/// | `top_k_batched<T>(ctx, tasks)` | top_k of every task |
/// | `adam_batched<T>(ctx, c, tasks, guard)` | adam of every task, with its own step in place of c.step; d = 0 and nothing else where the guard stops; steps that were left out do not count |
/// | `guard_step<T>(ctx, As, raise, guard)` | the guard stops where a contiguous matrix holds NaN or Inf; `raise`: also as long as the context's StepFlag is raised, which that does |
/// | `scale_batched<T>(ctx, alpha, As, guard)` | A *= alpha for contiguous matrices, unless the guard stops |
/// | `zero_batched<T>(ctx, As)` | all entries of contiguous matrices 0 |
/// | `first_nonfinite_batched<T>(ctx, As)` | number of the first contiguous matrix with NaN or Inf, or -1, on the host |
/// | `expand_nonzeros<T>(ctx, D, columns, F, P)` | P.row(b) = sum of D(a, b) F.row(a) over column b's entries that are not 0 (else of row b) |
/// | `expansion_cost(ctx)`, `most_expanded` | what a multiply-add of it costs, in those of a dense product; the most entries in a column |
/// | `batch_scratch_bound<T>(ctx, q, n)` | bytes of scratch that any of them takes on q arrays of n elements together |
// clang-format on
template <class B>
concept BatchedBackend = Backend<B> &&
    requires(typename B::Context& ctx, index_t n, std::span<const TopKTask<float>> selections,
             std::span<const AdamTask<float>> states, std::span<const MatrixView<float>> a,
             std::span<const MatrixView<const float>> in, AdamCoefficients c, StepGuard guard,
             MatrixView<float> f) {
  B::template top_k_batched<float>(ctx, selections);
  B::template adam_batched<float>(ctx, c, states, guard);
  B::template guard_step<float>(ctx, in, true, guard);
  B::template scale_batched<float>(ctx, 1.0F, a, guard);
  { ctx.step_flag() } -> std::same_as<StepFlag&>;
  B::template expand_nonzeros<float>(ctx, f, true, f, f);
  { B::expansion_cost(ctx) } -> std::same_as<double>;
  { B::most_expanded } -> std::convertible_to<index_t>;
  B::template zero_batched<float>(ctx, a);
  { B::template first_nonfinite_batched<float>(ctx, in) } -> std::same_as<index_t>;
  { B::template batch_scratch_bound<float>(ctx, n, n) } -> std::same_as<index_t>;
};

/// What `group_support` writes: the k entries of a support, index[e] = i cols + j, in groups of one row i
/// (or, with `columns`, of one column j), groups by rising number, entries in a group by rising other
/// coordinate.
///     order[p]   entry that stands at place p          other[p]   its coordinate within the group
///     slot[p]    number of its group, 0 .. q - 1       list[s]    row (column) of group s
/// Rows 2, cols 3, index {1, 3, 4}: by rows list {0, 1}, slot {0, 1, 1}, other {1, 0, 1}, order {0, 1, 2};
/// by columns list {0, 1}, slot {0, 1, 1}, other {1, 0, 1}, order {1, 0, 2}.
struct GroupedSupport {
  stored_index_t* slot = nullptr;
  stored_index_t* other = nullptr;
  stored_index_t* order = nullptr;
  stored_index_t* list = nullptr;
  index_t groups = 0;
};

}  // namespace sparsegrad
