// Element by element: copies, sums, products with a number.
#pragma once

#include "../../core/step_guard.hpp"
#include "batch.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

template <class T>
struct CopyEntry {
  Array2<const T> a;
  Array2<T> b;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const { b(i, j) = a(i, j); }
};

/// From one type to another, rounded to nearest.
template <class From, class To>
struct ConvertEntry {
  Array2<const From> a;
  Array2<To> b;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const { b(i, j) = static_cast<To>(a(i, j)); }
};

template <class T>
struct ScaleEntry {
  compute_t<T> alpha;
  Array2<T> a;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    a(i, j) = static_cast<T>(a(i, j) * alpha);
  }
};

/// b += alpha a, in the type of b.
template <class T, class Wide>
struct AddEntry {
  Wide alpha;
  Array2<const T> a;
  Array2<Wide> b;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    b(i, j) += alpha * static_cast<Wide>(a(i, j));
  }
};

template <class T>
struct AddToRow {
  const T* v;
  Array2<T> a;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    a(i, j) = static_cast<T>(a(i, j) + v[j]);
  }
};

/// The lower triangle of g += weight a.
template <class T>
struct AddLower {
  double weight;
  Array2<const T> a;
  Array2<double> g;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    if (j <= i) g(i, j) += weight * static_cast<double>(a(i, j));
  }
};

template <class T>
struct SetEntry {
  T value;
  Array2<T> a;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const { a(i, j) = value; }
};

template <class T>
struct SetElement {
  T value;
  T* p;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const { p[e] = value; }
};

/// x[e] *= alpha, unless the step is stopped.
template <class T>
struct ScaleElement {
  T alpha;
  T* x;
  StepGuard guard;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    if (!guard.stops()) x[e] *= alpha;
  }
};

template <class T>
struct CopyElement {
  const T* from;
  T* to;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const { to[e] = from[e]; }
};

/// B = A^T by tiles: both are read and written along their rows.
template <class T>
struct TransposeTiles {
  static constexpr int side = 32;
  static constexpr int threads = 256;
  static constexpr int phases = 2;
  struct Shared {
    T tile[side][side + 1];  // one more: a column's entries lie in different banks
  };

  Array2<const T> a;
  Array2<T> b;
  index_t rows, cols;

  SPARSEGRAD_HOST_DEVICE index_t tiles_across() const { return (cols + side - 1) / side; }
  index_t blocks() const { return (rows + side - 1) / side * tiles_across(); }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    const index_t first_row = block / tiles_across() * side;
    const index_t first_col = block % tiles_across() * side;
    for (int e = thread; e < side * side; e += threads) {
      const int y = e / side;
      const int x = e % side;
      if constexpr (P == 0) {
        if (first_row + y < rows && first_col + x < cols) shared.tile[y][x] = a(first_row + y, first_col + x);
      } else {
        if (first_col + y < cols && first_row + x < rows) b(first_col + y, first_row + x) = shared.tile[x][y];
      }
    }
  }
};

/// The contract's primitives of this kind.
template <class System>
struct Elements {
  using Context = typename System::Context;

  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    for_each_index<System>(ctx, n, SetElement<T>{T(0), p});
  }
  template <class T>
  static void zero_batch(Context& ctx, std::span<const MatrixView<T>> arrays) {
    launch_batch<System>(ctx, arrays, [](const MatrixView<T>& a, std::size_t) {
      return ElementBlocks<SetElement<T>>{{T(0), a.data}, a.size()};
    });
  }
  template <class T>
  static void scale_batch(Context& ctx, T alpha, std::span<const MatrixView<T>> arrays, StepGuard guard) {
    launch_batch<System>(ctx, arrays, [&](const MatrixView<T>& a, std::size_t) {
      return ElementBlocks<ScaleElement<T>>{{alpha, a.data, guard}, a.size()};
    });
  }
  template <class T>
  static void copy(Context& ctx, MatrixView<const T> a, MatrixView<T> b) {
    if (a.contiguous() && b.contiguous()) {
      return for_each_entry<System>(ctx, 1, b.size(), CopyEntry<T>{as_row(a), as_row(b)});
    }
    for_each_entry<System>(ctx, b.rows, b.cols, CopyEntry<T>{a, b});
  }
  template <class From, class To>
  static void convert(Context& ctx, MatrixView<const From> a, MatrixView<To> b) {
    if (a.contiguous() && b.contiguous()) {
      return for_each_entry<System>(ctx, 1, b.size(), ConvertEntry<From, To>{as_row(a), as_row(b)});
    }
    for_each_entry<System>(ctx, b.rows, b.cols, ConvertEntry<From, To>{a, b});
  }
  template <class T>
  static void scale(Context& ctx, compute_t<T> alpha, MatrixView<T> a) {
    for_each_entry<System>(ctx, a.rows, a.cols, ScaleEntry<T>{alpha, a});
  }
  template <class T, class Wide>
  static void add(Context& ctx, Wide alpha, MatrixView<const T> a, MatrixView<Wide> b) {
    for_each_entry<System>(ctx, b.rows, b.cols, AddEntry<T, Wide>{alpha, a, b});
  }
  template <class T>
  static void add_to_rows(Context& ctx, const T* v, MatrixView<T> a) {
    for_each_entry<System>(ctx, a.rows, a.cols, AddToRow<T>{v, a});
  }
  template <class T>
  static void transpose(Context& ctx, MatrixView<const T> a, MatrixView<T> b) {
    if (a.empty()) return;
    const TransposeTiles<T> kernel{a, b, a.rows, a.cols};
    System::launch(ctx, kernel.blocks(), kernel);
  }

 private:
  template <class T>
  static MatrixView<T> as_row(MatrixView<T> a) {
    return MatrixView<T>(a.data, 1, a.size());
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
