#pragma once

#include <cmath>

#include "mask.cuh"

namespace sparsegrad::finetune::device {

/// out = gelu(h + bias), h <- gelu'(h + bias), with Phi by erfc.
template <class T>
struct GeluEntry {
  using C = compute_t<T>;
  const C* bias;
  Array2<T> h;
  Array2<T> out;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    const C x = h(i, j) + bias[j];
    const C phi = C(0.5) * std::erfc(x * C(-0.70710678118654752440));
    out(i, j) = static_cast<T>(x * phi);
    h(i, j) = static_cast<T>(phi + x * std::exp(C(-0.5) * x * x) * C(0.39894228040143267794));
  }
};

/// g *= factor. Returns what it writes, so that a pass can sum it too.
template <class T>
struct MultiplyEntry {
  Array2<const T> factor;
  Array2<T> g;
  SPARSEGRAD_HOST_DEVICE T operator()(index_t i, index_t j) const {
    return g(i, j) = static_cast<T>(g(i, j) * factor(i, j));
  }
};

template <class T>
struct TanhEntry {
  const compute_t<T>* bias;
  Array2<T> x;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    x(i, j) = static_cast<T>(std::tanh(x(i, j) + bias[j]));
  }
};

template <class T>
struct TanhBackwardEntry {
  Array2<const T> y;
  Array2<T> g;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    g(i, j) = static_cast<T>(g(i, j) * (compute_t<T>(1) - y(i, j) * y(i, j)));
  }
};

}  // namespace sparsegrad::finetune::device
