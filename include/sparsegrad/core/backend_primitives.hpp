// The primitives of a backend, each as a concept of its own.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "backend_types.hpp"
#include "config.hpp"
#include "low_precision.hpp"
#include "view.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The primitives one by one. A compiler that rejects a backend names the one that is missing or
/// differs.
///
/// Every primitive is a static function of the backend B that takes the context first and works on
/// views of the backend's own memory. C is compute_t<T>. Extents are checked by the callers; any
/// extent may be 0. Inputs and outputs do not overlap unless said.
namespace contract {

/// Name of the backend in messages and tables.
template <class B>
concept HasName = requires {
  { B::name() } -> std::convertible_to<const char*>;
};

/// Density above which V D U^T takes D as a dense matrix whatever the cost model says; 0: always.
template <class B>
concept HasDenseAboveDensity = requires {
  { B::dense_above_density } -> std::convertible_to<double>;
};

/// Where the memory of what is made with a context comes from: `std::byte* allocate(bytes)` for
/// bytes > 0, which throws where there is none, and `deallocate(p)`, which does not. Copyable;
/// outlives contexts.
template <class B>
concept HasMemory = requires(typename B::Context& ctx, typename B::Memory memory, std::size_t bytes,
                             std::byte* p) {
  { B::memory(ctx) } -> std::same_as<typename B::Memory>;
  { memory.allocate(bytes) } -> std::same_as<std::byte*>;
  memory.deallocate(p);
};

/// Bytes of scratch that any primitive takes on arrays of n elements.
template <class B, class T>
concept HasScratchBound = requires(typename B::Context& ctx, index_t n) {
  { B::template scratch_bound<T>(ctx, n) } -> std::same_as<index_t>;
};

// ---- memory: T is any type that is stored ------------------------------------------------------

/// p[i] = 0.
template <class B, class T>
concept HasZero = requires(typename B::Context& ctx, T* p, index_t n) {
  B::template zero<T>(ctx, p, n);
};

/// p[i] = host[i], host memory.
template <class B, class T>
concept HasUpload = requires(typename B::Context& ctx, const T* host, T* p, index_t n) {
  B::template upload<T>(ctx, host, p, n);
};

/// host[i] = p[i], host memory.
template <class B, class T>
concept HasDownload = requires(typename B::Context& ctx, const T* p, T* host, index_t n) {
  B::template download<T>(ctx, p, host, n);
};

/// B = A, any strides.
template <class B, class T>
concept HasCopy = requires(typename B::Context& ctx, MatrixView<const T> a, MatrixView<T> b) {
  B::template copy<T>(ctx, a, b);
};

// ---- conversions: S is bfloat16 or float16 -----------------------------------------------------

/// B (float) = A (S), exact.
template <class B, class S>
concept HasWiden = requires(typename B::Context& ctx, MatrixView<const S> a, MatrixView<float> b) {
  B::template widen<S>(ctx, a, b);
};

/// B (S) = A (float), to nearest, ties to even; NaN stays NaN.
template <class B, class S>
concept HasRoundTo = requires(typename B::Context& ctx, MatrixView<const float> a, MatrixView<S> b) {
  B::template round_to<S>(ctx, a, b);
};

// ---- dense products and the eigenproblem -------------------------------------------------------

/// C = alpha op(A) op(B) + beta C; beta = 0 overwrites NaN.
template <class B, class T>
concept HasGemm = requires(typename B::Context& ctx, compute_t<T> alpha, MatrixView<const T> a,
                           MatrixView<T> c) {
  B::template gemm<T>(ctx, Op::none, Op::none, alpha, a, a, alpha, c);
};

/// The same for many small independent products.
template <class B, class T>
concept HasGemmBatched = requires(typename B::Context& ctx, T alpha, std::span<const MatrixView<const T>> as,
                                  std::span<const MatrixView<T>> cs) {
  B::template gemm_batched<T>(ctx, Op::none, Op::none, alpha, as, as, alpha, cs);
};

/// Lower triangle of G (double) += weight op(A) op(A)^T; products in T.
template <class B, class T>
concept HasGram = requires(typename B::Context& ctx, MatrixView<const T> a, double weight,
                           MatrixView<double> g) {
  B::template gram<T>(ctx, Op::none, a, weight, g);
};

/// Rows of A = orthonormal eigenvectors of the symmetric A (lower triangle, double); w descending.
template <class B>
concept HasEigh = requires(typename B::Context& ctx, MatrixView<double> a, double* w) {
  B::eigh(ctx, a, w);
};

// ---- elements and sums -------------------------------------------------------------------------

/// B = A^T.
template <class B, class T>
concept HasTranspose = requires(typename B::Context& ctx, MatrixView<const T> a, MatrixView<T> b) {
  B::template transpose<T>(ctx, a, b);
};

/// A *= alpha.
template <class B, class T>
concept HasScale = requires(typename B::Context& ctx, T alpha, MatrixView<T> a) {
  B::template scale<T>(ctx, alpha, a);
};

/// B += alpha A.
template <class B, class T>
concept HasAdd = requires(typename B::Context& ctx, T alpha, MatrixView<const T> a, MatrixView<T> b) {
  B::template add<T>(ctx, alpha, a, b);
};

/// B (double) += alpha A.
template <class B, class T>
concept HasAddWide = requires(typename B::Context& ctx, double alpha, MatrixView<const T> a,
                              MatrixView<double> b) {
  B::template add_wide<T>(ctx, alpha, a, b);
};

/// Every row of A += b.
template <class B, class T>
concept HasAddToRows = requires(typename B::Context& ctx, const T* b, MatrixView<T> a) {
  B::template add_to_rows<T>(ctx, b, a);
};

/// s[j] += sum_i A(i, j), s of type C.
template <class B, class T>
concept HasColumnSums = requires(typename B::Context& ctx, MatrixView<const T> a, compute_t<T>* s) {
  B::template column_sums<T>(ctx, a, s);
};

/// Sum of squares, in double, on the host.
template <class B, class T>
concept HasSquaredNorm = requires(typename B::Context& ctx, MatrixView<const T> a) {
  { B::template squared_norm<T>(ctx, a) } -> std::same_as<double>;
};

/// Row-major position of the first NaN or Inf, or -1. By the bits (float_bits.hpp), under any
/// floating-point mode.
template <class B, class T>
concept HasFirstNonfinite = requires(typename B::Context& ctx, MatrixView<const T> a) {
  { B::template first_nonfinite<T>(ctx, a) } -> std::same_as<index_t>;
};

/// A's rows or columns times a randomised block Hadamard matrix, in place (see BasisSide).
template <class B, class T>
concept HasHadamard = requires(typename B::Context& ctx, const T* signs, bool inverse, MatrixView<T> a) {
  B::template hadamard<T>(ctx, signs, inverse, TransformSide::rows, a);
};

// ---- entries of a support ----------------------------------------------------------------------

/// The k <= n largest of x by absolute value, by rising index (see top_k.hpp).
template <class B, class T>
concept HasTopK = requires(typename B::Context& ctx, const T* x, index_t n, stored_index_t* index, T* value) {
  B::template top_k<T>(ctx, x, n, n, index, value);
};

/// value[e] = x[index[e]].
template <class B, class T>
concept HasGather = requires(typename B::Context& ctx, const T* x, const stored_index_t* index, index_t k,
                             T* value) {
  B::template gather<T>(ctx, x, index, k, value);
};

/// x[index[e]] = value[e].
template <class B, class T>
concept HasScatter = requires(typename B::Context& ctx, const T* value, const stored_index_t* index,
                              index_t k, T* x) {
  B::template scatter<T>(ctx, value, index, k, x);
};

/// M(row[e], col[e]) += value[e]; no two entries have the same place.
template <class B, class T>
concept HasScatterAdd = requires(typename B::Context& ctx, const stored_index_t* row,
                                 const stored_index_t* col, const T* value, index_t k, MatrixView<T> m) {
  B::template scatter_add<T>(ctx, row, col, value, k, m);
};

/// value[e] += sum_t A(t, i) B(t, j), index[e] = i cols + j; value of type C.
template <class B, class T>
concept HasSampledProduct = requires(typename B::Context& ctx, MatrixView<const T> a,
                                     const stored_index_t* index, index_t k, index_t cols,
                                     compute_t<T>* value) {
  B::template sampled_product<T>(ctx, a, a, index, k, cols, value);
};

/// M.row(row[e]) += value[e] F.row(col[e]); row[] rising.
template <class B, class T>
concept HasExpandRows = requires(typename B::Context& ctx, const stored_index_t* row,
                                 const stored_index_t* col, const T* value, index_t k, MatrixView<const T> f,
                                 MatrixView<T> m) {
  B::template expand_rows<T>(ctx, row, col, value, k, f, m);
};

/// P.row(s) = F.row(list[s]), s < q.
template <class B, class T>
concept HasGatherRows = requires(typename B::Context& ctx, MatrixView<const T> f, const stored_index_t* list,
                                 index_t q, MatrixView<T> p) {
  B::template gather_rows<T>(ctx, f, list, q, p);
};

/// M's column list[s] += P.row(s); list without repeats.
template <class B, class T>
concept HasAddColumns = requires(typename B::Context& ctx, MatrixView<const T> p, const stored_index_t* list,
                                 MatrixView<T> m) {
  B::template add_columns<T>(ctx, p, list, m);
};

/// The groups of GroupedSupport; returns their number.
template <class B>
concept HasGroupSupport = requires(typename B::Context& ctx, const stored_index_t* index, index_t k,
                                   index_t rows, index_t cols, bool columns, stored_index_t* group,
                                   stored_index_t* other, stored_index_t* order, stored_index_t* list) {
  {
    B::group_support(ctx, index, k, rows, cols, columns, group, other, order, list)
    } -> std::same_as<index_t>;
};

// ---- Adam's state ------------------------------------------------------------------------------

/// The update of sparse_adam.hpp on m[entry[e]] and v[entry[e]] from g[e]; d[e] is the update.
/// `entry` null: e. `count` null: the step is c.step, else the entry's own, which is raised.
template <class B, class T>
concept HasAdam = requires(typename B::Context& ctx, AdamCoefficients c, const T* g,
                           const stored_index_t* entry, index_t k, T* m, T* v, std::int32_t* count, T* d) {
  B::template adam<T>(ctx, c, g, entry, k, m, v, count, d);
};

/// Where the positions index[0 .. k) stand among held[0 .. n), both strictly rising: place[e] =
/// place of index[e] in the union of both; added[0 .. q) = the e whose index[e] is not held, rising
/// (added has room for k). Returns q.
///
///     held {2, 5, 9}, index {1, 5, 7}: place {0, 2, 3}, added {0, 2}, q = 2
template <class B>
concept HasLocateEntries = requires(typename B::Context& ctx, const stored_index_t* index, index_t k,
                                    const stored_index_t* held, index_t n, stored_index_t* place,
                                    stored_index_t* added) {
  { B::locate_entries(ctx, index, k, held, n, place, added) } -> std::same_as<index_t>;
};

/// held[0 .. n) becomes that union [n + q], in place; m, v and count (may be null) move along, 0 at
/// the added entries.
///
///     as above: held becomes {1, 2, 5, 7, 9}
template <class B, class T>
concept HasInsertEntries = requires(typename B::Context& ctx, const stored_index_t* index,
                                    const stored_index_t* place, const stored_index_t* added, index_t q,
                                    stored_index_t* held, index_t n, T* m, T* v, std::int32_t* count) {
  B::template insert_entries<T>(ctx, index, place, added, q, held, n, m, v, count);
};

}  // namespace contract

}  // namespace sparsegrad::SPARSEGRAD_ABI
