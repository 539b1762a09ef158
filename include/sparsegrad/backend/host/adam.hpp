// Adam's update of some or all entries of a state.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../../core/backend.hpp"
#include "arrays.hpp"
#include "context.hpp"
#include "square_root.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS {

/// m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, d = -lr m^ / (sqrt(v^) + eps) in blocks: moments
/// at scattered entries are brought together first, so that one vectorised loop serves all cases.
template <class T>
class Adam {
 public:
  static void run(HostContext& ctx, const AdamCoefficients& c, const T* g, const stored_index_t* entry,
                  index_t k, T* m, T* v, std::int32_t* count, T* d) {
    if (k <= 0) return;
    Scratch::Frame frame(ctx.scratch());
    Adam adam(c);
    if (count != nullptr) adam.tabulate(frame, entry, k, count);
    ctx.parallel_ranges(k, 4096, [&](index_t begin, index_t end) {
      for (index_t e = begin; e < end; e += block) {
        const index_t size = (std::min)(block, end - e);
        if (entry == nullptr) {
          adam.update(g + e, size, m + e, v + e, count == nullptr ? nullptr : count + e, d + e);
        } else {
          adam.update_at(g + e, entry + e, size, m, v, count, d + e);
        }
      }
    });
  }

 private:
  static constexpr index_t block = 256;
  static constexpr std::int32_t most_tabulated = 4096;

  /// d = rate m / (root sqrt(v) + offset): what bias correction makes of it at one step.
  struct Step {
    T rate, root, offset;
  };

  explicit Adam(const AdamCoefficients& c)
      : c_(c),
        first_(static_cast<T>(1 - c.beta1)),
        second_(static_cast<T>(1 - c.beta2)),
        keep1_(kept(c.beta1)),
        keep2_(kept(c.beta2)),
        scale_(static_cast<T>(c.grad_scale)),
        global_(step_at(static_cast<double>(c.step))) {}

  /// A small beta, by which m or v is multiplied then: v += (1 - beta) (g^2 - v) would lose a small g
  /// in a large v. Else -1: of a large beta the difference from 1 is what must not be rounded.
  static T kept(double beta) { return beta < 0.5 ? static_cast<T>(beta) : T(-1); }
  /// old <- beta old + (1 - beta) x
  static void average(T& old, T x, T keep, T gain) {
    if (keep >= T(0)) {
      old = keep * old + gain * x;
    } else {
      old += gain * (x - old);
    }
  }

  Step step_at(double t) const {
    const double correction1 = 1 - std::pow(c_.beta1, t);
    const double correction2 = std::sqrt(1 - std::pow(c_.beta2, t));
    return {static_cast<T>(-c_.learning_rate / correction1), static_cast<T>(1 / correction2),
            static_cast<T>(c_.eps_uncorrected ? c_.eps / correction2 : c_.eps)};
  }

  /// Powers cost more than the rest of the update: entries of the same count share theirs.
  void tabulate(Scratch::Frame& frame, const stored_index_t* entry, index_t k, const std::int32_t* count) {
    std::int32_t largest = 0;
    for (index_t e = 0; e < k; ++e)
      largest = (std::max)(largest, count[entry == nullptr ? e : entry[e]]);
    tabulated_ = (std::min)((std::min)(largest, most_tabulated) + 1, static_cast<std::int32_t>(k));
    table_ = frame.template take<Step>(most_tabulated + 1);
    for (std::int32_t t = 1; t <= tabulated_; ++t)
      table_[t - 1] = step_at(t);
  }

  Step step_of(std::int32_t t) const {
    return t >= 1 && t <= tabulated_ ? table_[t - 1] : step_at(static_cast<double>(t));
  }

  void update_at(const T* g, const stored_index_t* entry, index_t size, T* m, T* v, std::int32_t* count,
                 T* d) const {
    T near_m[block];
    T near_v[block];
    std::int32_t near_count[block];
    for (index_t e = 0; e < size; ++e) {
      near_m[e] = m[entry[e]];
      near_v[e] = v[entry[e]];
      if (count != nullptr) near_count[e] = count[entry[e]];
    }
    update(g, size, near_m, near_v, count == nullptr ? nullptr : near_count, d);
    for (index_t e = 0; e < size; ++e) {
      m[entry[e]] = near_m[e];
      v[entry[e]] = near_v[e];
      if (count != nullptr) count[entry[e]] = near_count[e];
    }
  }

  void update(const T* g, index_t size, T* m, T* v, std::int32_t* count, T* d) const {
    T root[block];
    if (keep1_ < T(0) && keep2_ < T(0)) {
      index_t e = over_lanes<T>(size, [&](index_t at) {
        auto first = Lanes<T>::load(m + at), second = Lanes<T>::load(v + at);
        const auto x = Lanes<T>::load(g + at).v * scale_;
        first.v += first_ * (x - first.v);
        second.v += second_ * (x * x - second.v);
        first.store(m + at);
        second.store(v + at);
        second.store(root + at);
      });
      for (; e < size; ++e) {
        const T x = g[e] * scale_;
        m[e] += first_ * (x - m[e]);
        v[e] += second_ * (x * x - v[e]);
        root[e] = v[e];
      }
    } else {
      for (index_t e = 0; e < size; ++e) {
        const T x = g[e] * scale_;
        average(m[e], x, keep1_, first_);
        average(v[e], x * x, keep2_, second_);
        root[e] = v[e];
      }
    }
    square_roots(root, size);
    if (count == nullptr) {
      index_t e = over_lanes<T>(size, [&](index_t at) {
        Lanes<T> update;
        update.v = global_.rate * Lanes<T>::load(m + at).v /
                   (Lanes<T>::load(root + at).v * global_.root + global_.offset);
        update.store(d + at);
      });
      for (; e < size; ++e)
        d[e] = global_.rate * m[e] / (root[e] * global_.root + global_.offset);
      return;
    }
    for (index_t e = 0; e < size; ++e) {
      const Step step = step_of(++count[e]);
      d[e] = step.rate * m[e] / (root[e] * step.root + step.offset);
    }
  }

  const AdamCoefficients& c_;
  T first_, second_;
  T keep1_, keep2_;  ///< see `kept`
  T scale_;
  Step global_;
  Step* table_ = nullptr;
  std::int32_t tabulated_ = 0;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host::SPARSEGRAD_VECTORS
