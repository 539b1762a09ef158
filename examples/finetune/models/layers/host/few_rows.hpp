// Products of a few rows with a weight matrix, such as those of a token that is generated: they take as long as reading the
// weights does.
#pragma once

#include <algorithm>
#include <utility>

#include <sparsegrad/core/view.hpp>

#include "vector_math.hpp"

namespace sparsegrad::finetune {

/// Rows of x up to which few_rows_product is faster than a library's product of tiles.
inline constexpr index_t few_rows = 4;

namespace detail {

/// Of `rows` = sizeof...(i) rows: y = alpha x W^T + beta y.
template <class T, class Out, int... i>
inline void rows_product(std::integer_sequence<int, i...>, compute_t<T> alpha, MatrixView<const T> x,
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
      const C old = beta == C(0) ? C(0) : beta * static_cast<C>(of_y[r][j]);
      of_y[r][j] = static_cast<Out>(alpha * sums.of[r] + old);
    }
  }
}

}  // namespace detail

/// y = alpha x W^T + beta y of up to `few_rows` rows, on the calling thread. W is read once, from its first element to its last:
/// as fast as memory gives it, which several rows side by side are not. An element of y is a sum in an order that depends
/// on the number of columns of x alone (sums_of). beta = 0 overwrites NaN.
template <class T, class Out>
inline void few_rows_product(compute_t<T> alpha, MatrixView<const T> x, MatrixView<const T> w,
                             compute_t<T> beta, MatrixView<Out> y) {
  const auto with = [&]<int rows>() {
    detail::rows_product<T, Out>(std::make_integer_sequence<int, rows>(), alpha, x, w, beta, y);
  };
  switch (x.rows) {
    case 1:
      return with.template operator()<1>();
    case 2:
      return with.template operator()<2>();
    case 3:
      return with.template operator()<3>();
    case few_rows:
      return with.template operator()<4>();
    default:
      return;
  }
}

/// The same on the context's threads, each of which reads one stretch of W.
template <class T, class Out, class Context>
void few_rows_product(Context& ctx, compute_t<T> alpha, MatrixView<const T> x, MatrixView<const T> w,
                      compute_t<T> beta, MatrixView<Out> y) {
  constexpr index_t least = index_t{1} << 15;  // numbers of W that take longer to read than a thread to wake
  ctx.parallel_ranges(w.rows, least / std::max<index_t>(w.cols, 1), [&](index_t begin, index_t end) {
    few_rows_product<T, Out>(alpha, x, w.block(begin, 0, end - begin, w.cols), beta,
                             y.block(0, begin, y.rows, end - begin));
  });
}

}  // namespace sparsegrad::finetune
