// Kernels that the CPU backends share: everything but the dense products and the eigenproblem.
#pragma once

#include "../../core/backend.hpp"
#include "adam.hpp"
#include "context.hpp"
#include "convert.hpp"
#include "elementwise.hpp"
#include "entries.hpp"
#include "hadamard.hpp"
#include "low_precision_elements.hpp"
#include "sparse.hpp"
#include "top_k.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// The contract's primitives by name; each forwards to the file of its concept. None is
/// Reference's: a backend that lacks one does not compile, and its results are compared with loops
/// that are not its own.
struct Kernels {
  using Context = HostContext;
  using Memory = HostMemory;
  static constexpr double dense_above_density = 1;  // left to the cost model

  static Memory memory(const Context&) { return {}; }
  /// Frames of the primitives, and some 16 MiB a thread for packing.
  template <class T>
  static index_t scratch_bound(const Context& ctx, index_t n) {
    return n * static_cast<index_t>(sizeof(T) + 2 * sizeof(stored_index_t)) +
           ctx.threads() * (index_t{16} << 20);
  }

  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    Elementwise::zero(ctx, p, n);
  }
  template <class T>
  static void upload(Context& ctx, const T* source, T* p, index_t n) {
    Elementwise::copy_array(ctx, source, p, n);
  }
  template <class T>
  static void download(Context& ctx, const T* p, T* target, index_t n) {
    Elementwise::copy_array(ctx, p, target, n);
  }
  template <class T>
  static void copy(Context& ctx, ConstMatrixView<T> a, MatrixView<T> b) {
    Elementwise::copy<T>(ctx, a, b);
  }
  template <class S>
  static void widen(Context& ctx, ConstMatrixView<S> a, MatrixView<float> b) {
    Convert::widen<S>(ctx, a, b);
  }
  template <class S>
  static void round_to(Context& ctx, ConstMatrixView<float> a, MatrixView<S> b) {
    Convert::round_to<S>(ctx, a, b);
  }
  static void split(Context& ctx, ConstMatrixView<float> a,
                    std::span<const MatrixView<sparsegrad::bfloat16>> terms) {
    Convert::split(ctx, a, terms);
  }
  template <class T>
  static void scale(Context& ctx, std::type_identity_t<T> alpha, MatrixView<T> a) {
    Elementwise::scale<T>(ctx, alpha, a);
  }
  template <class T>
  static void add(Context& ctx, std::type_identity_t<T> alpha, ConstMatrixView<T> a, MatrixView<T> b) {
    Elementwise::add<T, T>(ctx, alpha, a, b);
  }
  template <class T>
  static void add_wide(Context& ctx, double alpha, ConstMatrixView<T> a, MatrixView<double> b) {
    Elementwise::add<T, double>(ctx, alpha, a, b);
  }
  template <class T>
  static void add_to_rows(Context& ctx, const T* v, MatrixView<T> a) {
    if constexpr (is_low_precision<T>) {
      LowPrecisionElements::add_to_rows(ctx, v, a);
    } else {
      Elementwise::add_to_rows(ctx, v, a);
    }
  }
  template <class T>
  static double squared_norm(Context& ctx, ConstMatrixView<T> a) {
    return Elementwise::squared_norm<T>(ctx, a);
  }
  template <class T>
  static index_t first_nonfinite(Context& ctx, ConstMatrixView<T> a) {
    return Elementwise::first_nonfinite<T>(ctx, a);
  }
  template <class T>
  static void column_sums(Context& ctx, ConstMatrixView<T> a, compute_t<T>* sums) {
    if constexpr (is_low_precision<T>) {
      LowPrecisionElements::column_sums<T>(ctx, a, sums);
    } else {
      Elementwise::column_sums<T>(ctx, a, sums);
    }
  }
  template <class T>
  static void transpose(Context& ctx, ConstMatrixView<T> a, MatrixView<T> b) {
    Elementwise::transpose<T>(ctx, a, b);
  }
  template <class T>
  static void hadamard(Context& ctx, const T* signs, bool inverse, TransformSide side, MatrixView<T> a) {
    HadamardTransform<T>::run(ctx, signs, inverse, side, a);
  }
  template <class T>
  static void top_k(Context& ctx, const T* x, index_t n, index_t k, stored_index_t* index, T* value) {
    TopK<T>::run(ctx, x, n, k, index, value);
  }
  template <class T>
  static void gather(Context& ctx, const T* x, const stored_index_t* index, index_t k, T* value) {
    Sparse::gather(ctx, x, index, k, value);
  }
  template <class T>
  static void scatter(Context& ctx, const T* value, const stored_index_t* index, index_t k, T* x) {
    Sparse::scatter(ctx, value, index, k, x);
  }
  template <class T>
  static void scatter_add(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, MatrixView<T> m) {
    Sparse::scatter_add(ctx, row, col, value, k, m);
  }
  template <class T>
  static void sampled_product(Context& ctx, ConstMatrixView<T> a, ConstMatrixView<T> b,
                              const stored_index_t* index, index_t k, index_t cols, compute_t<T>* value) {
    Sparse::sampled_product<T>(ctx, a, b, index, k, cols, value);
  }
  template <class T>
  static void expand_rows(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, ConstMatrixView<T> f, MatrixView<T> m) {
    Sparse::expand_rows<T>(ctx, row, col, value, k, f, m);
  }
  template <class T>
  static void gather_rows(Context& ctx, ConstMatrixView<T> f, const stored_index_t* list, index_t q,
                          MatrixView<T> p) {
    Sparse::gather_rows<T>(ctx, f, list, q, p);
  }
  template <class T>
  static void add_columns(Context& ctx, ConstMatrixView<T> p, const stored_index_t* list, MatrixView<T> m) {
    Sparse::add_columns<T>(ctx, p, list, m);
  }
  static index_t group_support(Context& ctx, const stored_index_t* index, index_t k, index_t rows,
                               index_t cols, bool columns, stored_index_t* group, stored_index_t* other,
                               stored_index_t* order, stored_index_t* list) {
    return Sparse::group_support(ctx, index, k, rows, cols, columns, group, other, order, list);
  }
  static index_t locate_entries(Context& ctx, const stored_index_t* index, index_t k,
                                const stored_index_t* held, index_t n, stored_index_t* place,
                                stored_index_t* added) {
    return Entries::locate_entries(ctx, index, k, held, n, place, added);
  }
  template <class T>
  static void insert_entries(Context& ctx, const stored_index_t* index, const stored_index_t* place,
                             const stored_index_t* added, index_t q, stored_index_t* held, index_t n, T* m,
                             T* v, std::int32_t* count) {
    Entries::insert_entries<T>(ctx, index, place, added, q, held, n, m, v, count);
  }
  template <class T>
  static void adam(Context& ctx, const AdamCoefficients& c, const T* g, const stored_index_t* entry,
                   index_t k, T* m, T* v, std::int32_t* count, T* d) {
    Adam<T>::run(ctx, c, g, entry, k, m, v, count, d);
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
