// TensorView: a stack of gradients as a tensor of order 3, its unfoldings and mode products.
#pragma once

#include <cmath>
#include <string>

#include "core/backend.hpp"
#include "default_backend.hpp"
#include "tucker_basis.hpp"

namespace sparsegrad {

/// The three modes of a stack of gradients.
enum class Mode {
  stack,  ///< which gradient (mode 1 of Kolda and Bader)
  out,    ///< row of a gradient (mode 2)
  in,     ///< column of a gradient (mode 3)
};

/// Non-owning contiguous stack X [n, out, in] of n gradients: X(i, j, k) is data[(i out + j) in + k], so that
/// each slice is an ordinary row-major matrix [out, in].
///
/// Unfoldings as in Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 51(3), 2009:
/// the rows run over one mode, the columns over the other two, the earlier of them fastest. With X [2, 2, 3]
/// of the slices
///     X(0) = 1 2 3    X(1) =  7  8  9
///            4 5 6           10 11 12
/// they are
///     stack [2, 6]     1  4  2  5  3  6     column j + 2 k
///                      7 10  8 11  9 12
///     out [2, 6]       1  7  2  8  3  9     column i + 2 k
///                      4 10  5 11  6 12
///     in [3, 4]        1  7  4 10           column i + 2 j
///                      2  8  5 11
///                      3  9  6 12
template <class T>
struct TensorView {
  T* data = nullptr;
  index_t n = 0;
  index_t out = 0;
  index_t in = 0;

  constexpr TensorView() = default;
  /// Throws ShapeError when an extent is negative, or data is null though there are elements.
  constexpr TensorView(T* data_, index_t n_, index_t out_, index_t in_)
      : data(data_), n(n_), out(out_), in(in_) {
    if (n < 0 || out < 0 || in < 0 || (data == nullptr && n * out * in > 0)) {
      throw ShapeError("tensor view of " + shape_text() +
                       ": expected extents >= 0 and data that is not null");
    }
  }
  constexpr operator TensorView<const T>() const  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<T>) {
    return TensorView<const T>(data, n, out, in);
  }

  constexpr T& operator()(index_t i, index_t j, index_t k) const { return data[(i * out + j) * in + k]; }
  constexpr index_t size() const { return n * out * in; }
  constexpr index_t extent(Mode mode) const { return mode == Mode::stack ? n : mode == Mode::out ? out : in; }
  /// Gradient i [out, in].
  constexpr MatrixView<T> slice(index_t i) const {
    return MatrixView<T>(data == nullptr ? nullptr : data + i * out * in, out, in);
  }
  /// All gradients, each as one row [n, out in].
  constexpr MatrixView<T> rows() const { return MatrixView<T>(data, n, out * in); }
  std::string shape_text() const {
    return std::to_string(n) + "x" + std::to_string(out) + "x" + std::to_string(in);
  }
};

/// TensorView as a parameter that takes no part in template argument deduction.
template <class T>
using ConstTensorView = TensorView<const std::type_identity_t<T>>;

/// A = X_(mode), A [extent of mode, product of the other two]. Throws ShapeError.
template <class T, class Backend = DefaultBackend>
void unfold(typename Backend::Context& ctx, ConstTensorView<T> x, Mode mode, MatrixView<T> a);

/// X from its unfolding: the inverse of `unfold`. Throws ShapeError.
template <class T, class Backend = DefaultBackend>
void fold(typename Backend::Context& ctx, ConstMatrixView<T> a, Mode mode, TensorView<T> x);

/// Y = X x_mode M: Y_(mode) = M X_(mode), M [p, extent of mode]; Y has extent p there. Throws ShapeError.
template <class T, class Backend = DefaultBackend>
void mode_product(typename Backend::Context& ctx, ConstTensorView<T> x, Mode mode, ConstMatrixView<T> m,
                  TensorView<T> y);

/// Cores [n, r, c] of a stack: C = X x_out V^T x_in U^T. Throws ShapeError.
template <class T, class Backend>
void project(typename Backend::Context& ctx, const TuckerBasis<T, Backend>& basis, ConstTensorView<T> x,
             TensorView<T> cores);

/// The stack that the cores stand for: X^ = C x_out V x_in U. Throws ShapeError.
template <class T, class Backend>
void reconstruct(typename Backend::Context& ctx, const TuckerBasis<T, Backend>& basis,
                 ConstTensorView<T> cores, TensorView<T> x);

/// ||X - Y|| (Frobenius), in double. Throws ShapeError.
template <class T, class Backend = DefaultBackend>
double distance(typename Backend::Context& ctx, ConstTensorView<T> x, ConstTensorView<T> y);

}  // namespace sparsegrad
