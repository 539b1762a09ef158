// Adam's update of some or all entries of a state.
#pragma once

#include <cmath>

#include "../../core/backend.hpp"
#include "batch.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

/// d = rate m / (root sqrt(v) + offset): what bias correction makes of it at one step.
template <class T>
struct AdamStep {
  T rate, root, offset;

  /// The same bits on the host and the device (see `power`).
  SPARSEGRAD_HOST_DEVICE static AdamStep at(const AdamCoefficients& c, std::int64_t t) {
    const double correction1 = 1 - power(c.beta1, t);
    const double correction2 = sqrt(1 - power(c.beta2, t));
    return {static_cast<T>(-c.learning_rate / correction1), static_cast<T>(1 / correction2),
            static_cast<T>(c.eps_uncorrected ? c.eps / correction2 : c.eps)};
  }
};

/// The numbers of an update that are the same for all its entries.
template <class T>
struct AdamFactors {
  AdamCoefficients c;
  AdamStep<T> global;  ///< of c.step
  T first, second;
  T keep1, keep2;  ///< see `kept`
  T scale;

  AdamFactors() = default;
  explicit AdamFactors(const AdamCoefficients& all)
      : c(all),
        global(AdamStep<T>::at(all, all.step)),
        first(static_cast<T>(1 - all.beta1)),
        second(static_cast<T>(1 - all.beta2)),
        keep1(kept(all.beta1)),
        keep2(kept(all.beta2)),
        scale(static_cast<T>(all.grad_scale)) {}

  /// A small beta, by which m or v is multiplied then: v += (1 - beta) (g^2 - v) would lose a small g
  /// in a large v. Else -1: of a large beta the difference from 1 is what must not be rounded.
  static T kept(double beta) { return beta < 0.5 ? static_cast<T>(beta) : T(-1); }
  /// beta old + (1 - beta) x
  SPARSEGRAD_HOST_DEVICE static T average(T old, T x, T keep, T gain) {
    return keep >= T(0) ? keep * old + gain * x : old + gain * (x - old);
  }

  /// Moves m and v by the gradient g; returns the update. `count` may be null: then the step is
  /// `now`.
  SPARSEGRAD_HOST_DEVICE T update(T g, T& m, T& v, std::int32_t* count, const AdamStep<T>& now) const {
    const T x = g * scale;
    m = average(m, x, keep1, first);
    v = average(v, x * x, keep2, second);
    const AdamStep<T> step = count == nullptr ? now : AdamStep<T>::at(c, ++*count);
    return step.rate * m / (static_cast<T>(sqrt(v)) * step.root + step.offset);
  }
};

template <class T>
struct AdamElement {
  AdamFactors<T> factors;
  const T* g;
  const stored_index_t* entry;
  T* m;
  T* v;
  std::int32_t* count;
  T* d;

  SPARSEGRAD_HOST_DEVICE void operator()(index_t e) const {
    const index_t s = entry == nullptr ? e : entry[e];
    d[e] = factors.update(g[e], m[s], v[s], count == nullptr ? nullptr : count + s, factors.global);
  }
};

/// One thread: a step more is counted, unless the step is stopped.
struct CountStep {
  static constexpr int threads = 32;
  static constexpr int phases = 1;
  struct Shared {};

  std::int64_t* counter;  ///< null: there is nothing to count
  StepGuard guard;

  index_t blocks() const { return counter == nullptr ? 0 : 1; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t, int thread, Shared&) const {
    if (thread == 0 && !guard.stops()) ++*counter;
  }
};

/// The entries of a task of adam_batched.
template <class T>
struct AdamBlocks {
  static constexpr int threads = 256;
  static constexpr int phases = 2;
  static constexpr index_t tile = 4 * threads;
  struct Shared {
    AdamStep<T> now;
    bool stops;
  };

  AdamFactors<T> factors;
  AdamTask<T> task;
  StepGuard guard;

  index_t blocks() const { return (task.k + tile - 1) / tile; }

  template <int P>
  SPARSEGRAD_HOST_DEVICE void phase(index_t block, int thread, Shared& shared) const {
    if constexpr (P == 0) {
      if (thread != 0) return;
      shared.stops = guard.stops();
      // The host knows the step but for those that were skipped without its knowledge.
      const std::int64_t skipped = guard.word == nullptr ? 0 : guard.skipped();
      if (task.counter != nullptr) {
        shared.now = AdamStep<T>::at(factors.c, *task.counter);
      } else if (skipped != 0) {
        shared.now = AdamStep<T>::at(factors.c, factors.c.step - skipped);
      } else {
        shared.now = factors.global;
      }
    } else {
      const index_t end = (block + 1) * tile < task.k ? (block + 1) * tile : task.k;
      for (index_t e = block * tile + thread; e < end; e += threads) {
        const index_t s = task.entry == nullptr ? e : task.entry[e];
        task.d[s] = shared.stops
                        ? T(0)
                        : factors.update(task.g[e], task.m[s], task.v[s],
                                         task.count == nullptr ? nullptr : task.count + s, shared.now);
      }
    }
  }
};

/// The contract's adam and adam_batched.
template <class System>
struct Adam {
  using Context = typename System::Context;

  template <class T>
  static void run(Context& ctx, const AdamCoefficients& c, const T* g, const stored_index_t* entry, index_t k,
                  T* m, T* v, std::int32_t* count, T* d) {
    for_each_index<System>(ctx, k, AdamElement<T>{AdamFactors<T>(c), g, entry, m, v, count, d});
  }

  /// One launch for some two dozen tasks, and one more where steps are counted in memory.
  template <class T>
  static void run_batch(Context& ctx, const AdamCoefficients& c, std::span<const AdamTask<T>> tasks,
                        StepGuard guard) {
    launch_batch<System>(ctx, tasks, [&](const AdamTask<T>& task, std::size_t) {
      return CountStep{task.counter, guard};
    });
    launch_batch<System>(ctx, tasks, [&](const AdamTask<T>& task, std::size_t) {
      AdamCoefficients own = c;
      own.step = task.step;
      return AdamBlocks<T>{AdamFactors<T>(own), task, guard};
    });
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
