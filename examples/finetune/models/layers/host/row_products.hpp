#pragma once

#include <utility>

#include <sparsegrad/core/view.hpp>

#include "../few_rows.hpp"
#include "vector_math.hpp"

namespace sparsegrad::finetune {

namespace detail {

/// Of as many rows as there are numbers i.
template <class T, class Out, int... i>
inline void row_products(std::integer_sequence<int, i...>, compute_t<T> alpha, MatrixView<const T> x,
                         MatrixView<const T> w, compute_t<T> beta, MatrixView<Out> y) {
  using C = compute_t<T>;
  constexpr int rows = sizeof...(i);
  const T* const of_x[] = {x.row(i)...};
  Out* const of_y[] = {y.row(i)...};
  for (index_t j = 0; j < w.rows; ++j) {
    const T* wj = w.row(j);
    const auto sums = sums_of<C, rows>(x.cols, [=](auto at) {
      const auto weight = at.load(wj);
      return terms(at.load(of_x[i]) * weight...);
    });
    for (int r = 0; r < rows; ++r) {
      C sum = alpha * sums.of[r];
      if (beta != C(0)) sum += beta * static_cast<C>(of_y[r][j]);
      of_y[r][j] = static_cast<Out>(sum);
    }
  }
}

}  // namespace detail

/// y = alpha x W^T + beta y for up to `few_rows` rows of x, on the calling thread. W is read from its first
/// row to its last, one row at a time: memory delivers one stretch faster than several side by side. An
/// element of y is summed in an order that depends on the number of columns of x alone (sums_of). beta = 0
/// overwrites NaN.
template <class T, class Out>
inline void row_products(compute_t<T> alpha, MatrixView<const T> x, MatrixView<const T> w, compute_t<T> beta,
                         MatrixView<Out> y) {
  const auto with = [&]<int rows>() {
    detail::row_products<T, Out>(std::make_integer_sequence<int, rows>(), alpha, x, w, beta, y);
  };
  static_assert(few_rows == 4);
  if (x.rows == 1) with.template operator()<1>();
  if (x.rows == 2) with.template operator()<2>();
  if (x.rows == 3) with.template operator()<3>();
  if (x.rows == 4) with.template operator()<4>();
}

}  // namespace sparsegrad::finetune
