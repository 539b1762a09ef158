// Adam's update of some or all entries of a state.
#pragma once

#include <cmath>

#include "../../core/backend.hpp"
#include "batch.cuh"

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

/// The numbers of an update that are the same for all its entries.
template <class T>
struct AdamFactors {
  AdamCoefficients c;
  AdamStep<T> global;
  T first, second, scale;

  SPARSEGRAD_HOST_DEVICE explicit AdamFactors(const AdamCoefficients& all)
      : c(all),
        global(AdamStep<T>::at(all, static_cast<double>(all.step))),
        first(static_cast<T>(1 - all.beta1)),
        second(static_cast<T>(1 - all.beta2)),
        scale(static_cast<T>(all.grad_scale)) {}

  /// Moves m and v by the gradient g; returns the update. `count` may be null.
  SPARSEGRAD_HOST_DEVICE T update(T g, T& m, T& v, std::int32_t* count) const {
    const T x = g * scale;
    m += first * (x - m);
    v += second * (x * x - v);
    const AdamStep<T> step = count == nullptr ? global : AdamStep<T>::at(c, static_cast<double>(++*count));
    return step.rate * m / (static_cast<T>(sqrt(v)) * step.root + step.offset);
  }
};

template <class T>
struct AdamElement {
  AdamFactors<T> factors;
  const T* g;
  const stored_index_t* slot;
  T* m;
  T* v;
  std::int32_t* count;
  T* d;

  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t s = slot == nullptr ? e : slot[e];
    d[e] = factors.update(g[e], m[s], v[s], count == nullptr ? nullptr : count + s);
  }
};

/// One thread: the factors of a task, whose step is told or counted in memory.
template <class T>
struct SetAdamFactors {
  static constexpr int threads = 32;
  static constexpr int phases = 1;
  struct Shared {};

  AdamCoefficients c;
  std::int64_t* counter;
  AdamFactors<T>* factors;

  static constexpr index_t blocks() { return 1; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared&) const {
    if (thread != 0) return;
    AdamCoefficients now = c;
    if (counter != nullptr) now.step = ++*counter;
    *factors = AdamFactors<T>(now);
  }
};

/// An entry of a task of adam_batched.
template <class T>
struct AdamTaskElement {
  const AdamFactors<T>* factors;
  const T* g;
  const stored_index_t* slot;
  T* m;
  T* v;
  std::int32_t* count;
  T* d;

  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t s = slot == nullptr ? e : slot[e];
    d[s] = factors->update(g[e], m[s], v[s], count == nullptr ? nullptr : count + s);
  }
};

/// The contract's adam and adam_batched.
template <class System>
struct Adam {
  using Context = typename System::Context;

  template <class T>
  static void run(Context& ctx, const AdamCoefficients& c, const T* g, const stored_index_t* slot, index_t k,
                  T* m, T* v, std::int32_t* count, T* d) {
    for_each_index<System>(ctx, k, AdamElement<T>{AdamFactors<T>(c), g, slot, m, v, count, d});
  }

  template <class T>
  static void run_batch(Context& ctx, const AdamCoefficients& c, std::span<const AdamTask<T>> tasks) {
    if (tasks.empty()) return;
    auto frame = ctx.frame();
    auto* factors = frame.template take<AdamFactors<T>>(static_cast<index_t>(tasks.size()));
    launch_batch<System>(ctx, tasks, [&](const AdamTask<T>& task, std::size_t t) {
      AdamCoefficients own = c;
      own.step = task.step;
      return SetAdamFactors<T>{own, task.counter, factors + t};
    });
    launch_batch<System>(ctx, tasks, [&](const AdamTask<T>& task, std::size_t t) {
      return ElementBlocks<AdamTaskElement<T>>{
          {factors + t, task.g, task.slot, task.m, task.v, task.count, task.d}, task.k};
    });
  }
};

}  // namespace sparsegrad::backend::portable
