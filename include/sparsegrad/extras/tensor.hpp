// TensorView: a stack of gradients as a tensor of order 3, its unfoldings and mode products.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "../core/backend.hpp"
#include "../default_backend.hpp"
#include "../tucker_basis.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The three modes of a stack of gradients.
enum class Mode {
  stack,  ///< which gradient (mode 1 of Kolda and Bader)
  out,    ///< row of a gradient (mode 2)
  in,     ///< column of a gradient (mode 3)
};

/// Non-owning contiguous stack X [n, out, in] of n gradients: X(i, j, k) is data[(i out + j) in +
/// k], so that each slice is an ordinary row-major matrix [out, in].
///
/// Unfoldings as in Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 51(3),
/// 2009: the rows run over one mode, the columns over the other two, the earlier of them fastest.
/// With X [2, 2, 3] of the slices
///
///     X(0) = 1 2 3    X(1) =  7  8  9
///            4 5 6           10 11 12
///
/// they are
///
///     stack [2, 6]     1  4  2  5  3  6     column j + 2 k
///                      7 10  8 11  9 12
///     out [2, 6]       1  7  2  8  3  9     column i + 2 k
///                      4 10  5 11  6 12
///     in [3, 4]        1  7  4 10           column i + 2 j
///                      2  8  5 11
///                      3  9  6 12
template <class T>
struct TensorView {
  T* data = nullptr;  ///< element (0, 0, 0)
  index_t n = 0;      ///< number of gradients
  index_t out = 0;    ///< rows of a gradient
  index_t in = 0;     ///< columns of a gradient

  /// A view of no elements, 0x0x0.
  constexpr TensorView() = default;
  /// A view of n_ gradients [out_, in_] that follow each other.
  /// Throws ShapeError when an extent is negative, the number of elements passes index_t, or data
  /// is null though there are elements.
  constexpr TensorView(T* data_, index_t n_, index_t out_, index_t in_)
      : data(data_), n(n_), out(out_), in(in_) {
    constexpr index_t most = (std::numeric_limits<index_t>::max)();
    const bool negative = n < 0 || out < 0 || in < 0;
    const bool empty = n == 0 || out == 0 || in == 0;
    if (negative || (!empty && (data == nullptr || n > most / out || n * out > most / in))) {
      throw ShapeError("tensor view of " + shape_text() +
                       ": expected extents >= 0 whose product is below 2^63, and data that is not null");
    }
  }
  /// A view of elements that may be changed serves as one of elements that may not.
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) constexpr operator TensorView<U>()
      const {  // NOLINT(google-explicit-constructor)
    return TensorView<U>(data, n, out, in);
  }

  /// Element (j, k) of gradient i, on the host.
  constexpr T& operator()(index_t i, index_t j, index_t k) const { return data[(i * out + j) * in + k]; }
  /// Number of elements.
  constexpr index_t size() const { return n * out * in; }
  /// Extent of a mode.
  constexpr index_t extent(Mode mode) const { return mode == Mode::stack ? n : mode == Mode::out ? out : in; }
  /// Gradient i [out, in].
  constexpr MatrixView<T> slice(index_t i) const {
    return MatrixView<T>(data == nullptr ? nullptr : data + i * out * in, out, in);
  }
  /// All gradients, each as one row [n, out in].
  constexpr MatrixView<T> rows() const { return MatrixView<T>(data, n, out * in); }
  /// The extents as text: "10x768x3072".
  std::string shape_text() const {
    return std::to_string(n) + "x" + std::to_string(out) + "x" + std::to_string(in);
  }
};

/// TensorView as a parameter that takes no part in template argument deduction.
template <class T>
using ConstTensorView = TensorView<const std::type_identity_t<T>>;

namespace detail {

template <class T>
void require_unfolding(ConstTensorView<T> x, Mode mode, MatrixView<const T> a) {
  const index_t rows = x.extent(mode);
  const index_t cols = mode == Mode::stack ? x.out * x.in : mode == Mode::out ? x.n * x.in : x.n * x.out;
  require_shape("unfolding", a.rows, a.cols, rows, cols, "extent of the mode x product of the other two");
}

template <class T>
void require_same(const char* what, ConstTensorView<T> x, index_t n, index_t out, index_t in) {
  if (x.n == n && x.out == out && x.in == in) return;
  throw ShapeError(std::string(what) + " is " + x.shape_text() + ", expected " + std::to_string(n) + "x" +
                   std::to_string(out) + "x" + std::to_string(in) + " (n x out x in)");
}

/// Calls f(part of the tensor, part of the unfolding) on matrices that are each other's transposes
/// and together are all of both. The stack's index is the fastest of two unfoldings and the slowest
/// of the tensor.
template <class X, class A, class F>
void transposed_parts(TensorView<X> x, Mode mode, MatrixView<A> a, F&& f) {
  if (x.size() == 0) return;
  if (mode == Mode::stack) {
    for (index_t i = 0; i < x.n; ++i)
      f(x.slice(i), MatrixView<A>(a.row(i), x.in, x.out));
    return;
  }
  for (index_t j = 0; j < x.out; ++j) {
    const MatrixView<X> part(x.data + j * x.in, x.n, x.in, x.out * x.in);
    f(part, mode == Mode::out ? MatrixView<A>(a.row(j), x.in, x.n) : a.block(0, j * x.n, x.in, x.n));
  }
}

}  // namespace detail

/// A = X_(mode), A [extent of mode, product of the other two]. Throws ShapeError.
template <class T, Backend B = DefaultBackend>
void unfold(typename B::Context& ctx, ConstTensorView<T> x, Mode mode, MatrixView<T> a) {
  detail::require_unfolding<T>(x, mode, a);
  detail::transposed_parts(x, mode, a, [&](MatrixView<const T> part, MatrixView<T> to) {
    B::template transpose<T>(ctx, part, to);
  });
}

/// X from its unfolding: the inverse of `unfold`. Throws ShapeError.
template <class T, Backend B = DefaultBackend>
void fold(typename B::Context& ctx, ConstMatrixView<T> a, Mode mode, TensorView<T> x) {
  detail::require_unfolding<T>(x, mode, a);
  detail::transposed_parts(x, mode, a, [&](MatrixView<T> part, MatrixView<const T> from) {
    B::template transpose<T>(ctx, from, part);
  });
}

/// Y = X x_mode M: Y_(mode) = M X_(mode), M [p, extent of mode]; Y has extent p there. Throws
/// ShapeError.
template <class T, Backend B = DefaultBackend>
void mode_product(typename B::Context& ctx, ConstTensorView<T> x, Mode mode, ConstMatrixView<T> m,
                  TensorView<T> y) {
  require_shape("M", m.rows, m.cols, m.rows, x.extent(mode), "rows x extent of the mode");
  detail::require_same<T>("mode product", y, mode == Mode::stack ? m.rows : x.n,
                          mode == Mode::out ? m.rows : x.out, mode == Mode::in ? m.rows : x.in);
  if (mode == Mode::stack) {
    return B::template gemm<T>(ctx, Op::none, Op::none, T(1), m, x.rows(), T(0), y.rows());
  }
  for (index_t i = 0; i < x.n; ++i) {
    if (mode == Mode::out) {
      B::template gemm<T>(ctx, Op::none, Op::none, T(1), m, x.slice(i), T(0), y.slice(i));
    } else {
      B::template gemm<T>(ctx, Op::none, Op::transpose, T(1), x.slice(i), m, T(0), y.slice(i));
    }
  }
}

/// Cores [n, r, c] of a stack [n, out, in]: C = X x_out V^T x_in U^T. Throws ShapeError.
template <class T, Backend B>
void project(typename B::Context& ctx, const TuckerBasis<T, B>& basis, ConstTensorView<T> x,
             std::type_identity_t<TensorView<T>> cores) {
  detail::require_same<T>("stack", x, x.n, basis.out_extent(), basis.in_extent());
  detail::require_same<T>("core stack", cores, x.n, basis.rows(), basis.cols());
  for (index_t i = 0; i < x.n; ++i)
    basis.project(ctx, x.slice(i), cores.slice(i));
}

/// The stack [n, out, in] that the cores [n, r, c] stand for: X^ = C x_out V x_in U. Throws
/// ShapeError.
template <class T, Backend B>
void reconstruct(typename B::Context& ctx, const TuckerBasis<T, B>& basis, ConstTensorView<T> cores,
                 std::type_identity_t<TensorView<T>> x) {
  detail::require_same<T>("core stack", cores, x.n, basis.rows(), basis.cols());
  detail::require_same<T>("stack", x, x.n, basis.out_extent(), basis.in_extent());
  for (index_t i = 0; i < x.n; ++i)
    basis.expand(ctx, cores.slice(i), T(0), x.slice(i));
}

/// ||X|| (Frobenius), in double.
template <class T, Backend B = DefaultBackend>
double norm(typename B::Context& ctx, ConstTensorView<T> x) {
  return x.size() == 0 ? 0.0 : std::sqrt(B::template squared_norm<T>(ctx, x.rows()));
}

/// ||X - Y|| (Frobenius); differences in T, their squares in double. Throws ShapeError.
template <class T, Backend B = DefaultBackend>
double distance(typename B::Context& ctx, ConstTensorView<T> x, ConstTensorView<T> y) {
  detail::require_same<T>("second tensor", y, x.n, x.out, x.in);
  double sum = 0;
  auto frame = ctx.frame();
  const MatrixView<T> difference = frame.template matrix<T>(x.out, x.in);
  for (index_t i = 0; i < x.n && !difference.empty(); ++i) {
    B::template copy<T>(ctx, x.slice(i), difference);
    B::template add<T>(ctx, T(-1), y.slice(i), difference);
    sum += B::template squared_norm<T>(ctx, difference);
  }
  return std::sqrt(sum);
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
