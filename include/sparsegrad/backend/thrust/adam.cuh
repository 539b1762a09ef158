// Adam's update of some or all entries of a state.
#pragma once

#include <cmath>

#include "../../core/backend.hpp"
#include "portable.cuh"

namespace sparsegrad::backend::portable {

/// d = rate m / (root sqrt(v) + offset): what bias correction makes of it at one step.
template <class T>
struct AdamStep {
  T rate, root, offset;

  SPARSEGRAD_HOST_DEVICE static AdamStep at(const AdamCoefficients& c, double t) {
    const double correction1 = 1 - pow(c.beta1, t);
    const double correction2 = sqrt(1 - pow(c.beta2, t));
    return {static_cast<T>(-c.learning_rate / correction1), static_cast<T>(1 / correction2),
            static_cast<T>(c.eps_uncorrected ? c.eps / correction2 : c.eps)};
  }
};

template <class T>
struct AdamElement {
  AdamCoefficients c;
  AdamStep<T> global;
  T first, second, scale;
  const T* g;
  const stored_index_t* slot;
  T* m;
  T* v;
  std::int32_t* count;
  T* d;

  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t s = slot == nullptr ? e : slot[e];
    const T x = g[e] * scale;
    const T new_m = m[s] + first * (x - m[s]);
    const T new_v = v[s] + second * (x * x - v[s]);
    m[s] = new_m;
    v[s] = new_v;
    const AdamStep<T> step = count == nullptr ? global : AdamStep<T>::at(c, static_cast<double>(++count[s]));
    d[e] = step.rate * new_m / (static_cast<T>(sqrt(new_v)) * step.root + step.offset);
  }
};

/// The contract's adam.
template <class System>
struct Adam {
  template <class T>
  static void run(typename System::Context& ctx, const AdamCoefficients& c, const T* g,
                  const stored_index_t* slot, index_t k, T* m, T* v, std::int32_t* count, T* d) {
    const AdamElement<T> element{c,
                                 AdamStep<T>::at(c, static_cast<double>(c.step)),
                                 static_cast<T>(1 - c.beta1),
                                 static_cast<T>(1 - c.beta2),
                                 static_cast<T>(c.grad_scale),
                                 g,
                                 slot,
                                 m,
                                 v,
                                 count,
                                 d};
    for_each_index<System>(ctx, k, element);
  }
};

}  // namespace sparsegrad::backend::portable
