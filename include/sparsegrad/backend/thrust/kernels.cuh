// The contract's primitives but for the dense products and the eigenproblem, for a GPU or Thrust's
// host system.
#pragma once

#include <span>

#include "../../core/backend.hpp"
#include "adam.cuh"
#include "elements.cuh"
#include "entries.cuh"
#include "hadamard.cuh"
#include "reductions.cuh"
#include "sparse.cuh"
#include "top_k.cuh"
#include "top_k_rows.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// System says where: its `Context`, `policy(ctx)` of Thrust, `call(f)`, which calls f and makes of
/// Thrust's exceptions the library's, `launch(ctx, blocks, kernel)` of a block kernel and
/// `fetch(ctx, p)`, which waits for *p, and `fetch(ctx, p, to, n)`, which
/// waits for n numbers.
template <class System>
struct Kernels {
  using Context = typename System::Context;

  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    Elements<System>::zero(ctx, p, n);
  }
  template <class T>
  static void copy(Context& ctx, ConstMatrixView<T> a, MatrixView<T> b) {
    Elements<System>::template copy<T>(ctx, a, b);
  }
  template <class T>
  static void widen(Context& ctx, ConstMatrixView<T> a, MatrixView<compute_t<T>> b) {
    Elements<System>::template convert<T, compute_t<T>>(ctx, a, b);
  }
  template <class T>
  static void round_to(Context& ctx, ConstMatrixView<compute_t<T>> a, MatrixView<T> b) {
    Elements<System>::template convert<compute_t<T>, T>(ctx, a, b);
  }
  template <class T>
  static void scale(Context& ctx, std::type_identity_t<T> alpha, MatrixView<T> a) {
    Elements<System>::template scale<T>(ctx, alpha, a);
  }
  template <class T>
  static void add(Context& ctx, std::type_identity_t<T> alpha, ConstMatrixView<T> a, MatrixView<T> b) {
    Elements<System>::template add<T, T>(ctx, alpha, a, b);
  }
  template <class T>
  static void add_wide(Context& ctx, double alpha, ConstMatrixView<T> a, MatrixView<double> b) {
    Elements<System>::template add<T, double>(ctx, alpha, a, b);
  }
  template <class T>
  static void add_to_rows(Context& ctx, const T* v, MatrixView<T> a) {
    Elements<System>::template add_to_rows<T>(ctx, v, a);
  }
  template <class T>
  static void transpose(Context& ctx, ConstMatrixView<T> a, MatrixView<T> b) {
    Elements<System>::template transpose<T>(ctx, a, b);
  }
  template <class T>
  static void column_sums(Context& ctx, ConstMatrixView<T> a, compute_t<T>* sums) {
    Reductions<System>::template column_sums<T>(ctx, a, sums);
  }
  template <class T>
  static double squared_norm(Context& ctx, ConstMatrixView<T> a) {
    return Reductions<System>::template squared_norm<T>(ctx, a);
  }
  template <class T>
  static index_t first_nonfinite(Context& ctx, ConstMatrixView<T> a) {
    return Reductions<System>::template first_nonfinite<T>(ctx, a);
  }
  template <class T>
  static void hadamard(Context& ctx, const T* signs, bool inverse, TransformSide side, MatrixView<T> a) {
    HadamardTransform<System>::template run<T>(ctx, signs, inverse, side, a);
  }
  template <class T>
  static void top_k(Context& ctx, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    TopK<System>::template run<T>(ctx, x, n, k, index, value);
  }
  template <class T>
  static void gather(Context& ctx, const T* x, const stored_index_t* index, index_t k, T* value) {
    for_each_index<System>(ctx, k, GatherElement<T>{x, index, value});
  }
  template <class T>
  static void scatter(Context& ctx, const T* value, const stored_index_t* index, index_t k, T* x) {
    for_each_index<System>(ctx, k, ScatterElement<T>{value, index, x});
  }
  template <class T>
  static void scatter_add(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, MatrixView<T> m) {
    for_each_index<System>(ctx, k, ScatterAddElement<T>{row, col, value, m});
  }
  template <class T>
  static void sampled_product(Context& ctx, ConstMatrixView<T> a, ConstMatrixView<T> b,
                              const stored_index_t* index, index_t k, index_t cols, compute_t<T>* value) {
    Sparse<System>::template sampled_product<T>(ctx, a, b, index, k, cols, value);
  }
  template <class T>
  static void expand_rows(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, ConstMatrixView<T> f, MatrixView<T> m) {
    Sparse<System>::template expand_rows<T>(ctx, row, col, value, k, f, m);
  }
  template <class T>
  static void gather_rows(Context& ctx, ConstMatrixView<T> f, const stored_index_t* list, index_t q,
                          MatrixView<T> p) {
    for_each_entry<System>(ctx, q, p.cols, GatherRow<T>{f, list, p});
  }
  template <class T>
  static void add_columns(Context& ctx, ConstMatrixView<T> p, const stored_index_t* list, MatrixView<T> m) {
    for_each_entry<System>(ctx, m.rows, p.rows, AddColumn<T>{p, list, m});
  }
  static index_t group_support(Context& ctx, const stored_index_t* index, index_t k, index_t, index_t cols,
                               bool columns, stored_index_t* group, stored_index_t* other,
                               stored_index_t* order, stored_index_t* list) {
    return Sparse<System>::group_support(ctx, index, k, cols, columns, group, other, order, list);
  }
  static index_t locate_entries(Context& ctx, const stored_index_t* index, index_t k,
                                const stored_index_t* held, index_t n, stored_index_t* place,
                                stored_index_t* added) {
    return Entries<System>::locate(ctx, index, k, held, n, place, added);
  }
  template <class T>
  static void insert_entries(Context& ctx, const stored_index_t* index, const stored_index_t* place,
                             const stored_index_t* added, index_t q, stored_index_t* held, index_t n, T* m,
                             T* v, std::int32_t* count) {
    Entries<System>::template insert<T>(ctx, index, place, added, q, held, n, m, v, count);
  }
  template <class T>
  static void adam(Context& ctx, const AdamCoefficients& c, const T* g, const stored_index_t* entry,
                   index_t k, T* m, T* v, std::int32_t* count, T* d) {
    Adam<System>::template run<T>(ctx, c, g, entry, k, m, v, count, d);
  }

  /// A backend may do this in place of one copy to the host and back for every row: rows = x, each
  /// row times -1 where `fix_signs` and its first entry as large as the largest (to 1e-5) is
  /// negative.
  template <class T>
  static void round_rows(Context& ctx, ConstMatrixView<double> x, bool fix_signs, MatrixView<T> rows) {
    if (rows.empty()) return;
    System::launch(ctx, rows.rows, RoundRow<T>{x, rows, rows.cols, fix_signs});
  }

  /// P.row(b) = sum over the entries of column b (else row b) of D that are not 0: D(a, b) F.row(a)
  /// (D(b, a) F.row(a)). At most `most_expanded` entries in a column (row), zeros included. For D
  /// of which few entries are not 0.
  static constexpr index_t most_expanded = ExpandNonzeros<float>::most;
  template <class T>
  static void expand_nonzeros(Context& ctx, ConstMatrixView<T> d, bool columns, ConstMatrixView<T> f,
                              MatrixView<T> p) {
    Sparse<System>::template expand_nonzeros<T>(ctx, d, columns, f, p);
  }
  /// Of each row the k entries that top_k would choose stay, the others become 0.
  template <class T>
  static void keep_largest_of_rows(Context& ctx, index_t k, MatrixView<T> a) {
    if (k >= a.cols || a.empty()) return;
    if (k <= 0) return for_each_entry<System>(ctx, a.rows, a.cols, SetEntry<T>{T(0), a});
    System::launch(ctx, a.rows, KeepLargestOfRow<T>{a, a.cols, static_cast<std::uint32_t>(k)});
  }

  template <class T>
  static void top_k_batched(Context& ctx, std::span<const TopKTask<T>> tasks) {
    TopK<System>::template run_batch<T>(ctx, tasks);
  }
  template <class T>
  static void adam_batched(Context& ctx, const AdamCoefficients& c, std::span<const AdamTask<T>> tasks,
                           StepGuard guard = {}) {
    Adam<System>::template run_batch<T>(ctx, c, tasks, guard);
  }
  template <class T>
  static void guard_step(Context& ctx, std::span<const MatrixView<const T>> arrays,
                         std::type_identity_t<T> largest, bool raise, StepGuard guard) {
    Reductions<System>::template guard_step<T>(ctx, arrays, largest, raise, guard);
  }
  template <class T>
  static void scale_batched(Context& ctx, std::type_identity_t<T> alpha,
                            std::span<const MatrixView<T>> arrays, StepGuard guard) {
    Elements<System>::template scale_batch<T>(ctx, alpha, arrays, guard);
  }
  template <class T>
  static void zero_batched(Context& ctx, std::span<const MatrixView<T>> arrays) {
    Elements<System>::template zero_batch<T>(ctx, arrays);
  }
  template <class T>
  static index_t first_nonfinite_batched(Context& ctx, std::span<const MatrixView<const T>> arrays) {
    return Reductions<System>::template first_nonfinite_batch<T>(ctx, arrays);
  }
  template <class T>
  static void squared_norm_batched(Context& ctx, std::span<const MatrixView<const T>> arrays, double* sums) {
    Reductions<System>::template squared_norm_batch<T>(ctx, arrays, sums);
  }
  template <class T>
  static index_t batch_scratch_bound(const Context&, index_t arrays, index_t elements) {
    return TopK<System>::template batch_bytes<T>(arrays, elements) +
           Reductions<System>::template norm_bytes<T>(arrays, elements) +
           arrays * static_cast<index_t>(4 * sizeof(void*)) + (index_t{16} << 20);
  }

  /// Frames of the primitives, Thrust's own temporaries and the Gram product's float part.
  template <class T>
  static index_t scratch_bound(const Context&, index_t n) {
    return n * static_cast<index_t>(sizeof(T) + 4 * sizeof(stored_index_t)) + (index_t{16} << 20);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
