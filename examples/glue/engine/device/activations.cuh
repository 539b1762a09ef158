#pragma once

#include <cmath>

#include "mask.cuh"

namespace sparsegrad::glue::device {

/// out = gelu(h + bias), h <- gelu'(h + bias), with Phi by erfc.
template <class T>
struct GeluEntry {
  const T* bias;
  Array2<T> h;
  Array2<T> out;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    const T x = h(i, j) + bias[j];
    const T phi = T(0.5) * std::erfc(x * T(-0.70710678118654752440));
    out(i, j) = x * phi;
    h(i, j) = phi + x * std::exp(T(-0.5) * x * x) * T(0.39894228040143267794);
  }
};

template <class T>
struct MultiplyEntry {
  Array2<const T> factor;
  Array2<T> g;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const { g(i, j) *= factor(i, j); }
};

template <class T>
struct TanhEntry {
  const T* bias;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    x(i, j) = std::tanh(x(i, j) + bias[j]);
  }
};

template <class T>
struct TanhBackwardEntry {
  Array2<const T> y;
  Array2<T> g;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const { g(i, j) *= T(1) - y(i, j) * y(i, j); }
};

}  // namespace sparsegrad::glue::device
