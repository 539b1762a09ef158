// Parameters in float or 16 bits, and their dense optimizer.
#pragma once

#include <sparsegrad/backend/host/convert.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

namespace sparsegrad::bench {

inline constexpr float learning_rate = 1e-5F;

/// AdamW of a dense gradient as an engine would write it: one pass, vectorised, on the context's threads. A weight of 16
/// bits is rounded from its master in the same pass.
template <class Backend, class T = float>
class DenseAdamW {
 public:
  using Context = typename Backend::Context;
  DenseAdamW(Context& ctx, index_t size) : m_(ctx, size), v_(ctx, size) {}

  index_t bytes() const { return m_.bytes() + v_.bytes(); }
  /// Read and written by a step: gradient, moments, weight, its rounded copy.
  double traffic() const {
    const auto of_float = static_cast<double>(m_.bytes());
    return (is_low_precision<T> ? 7.5 : 7) * of_float;
  }

  /// `rounded` is null where the weight is float itself.
  void step(Context& ctx, const float* g, float* w, T* rounded = nullptr) {
    ++steps_;
    const auto t = static_cast<float>(steps_);
    const float correction1 = 1 - std::pow(0.9F, t);
    const float root = std::sqrt(1 - std::pow(0.999F, t));
    ctx.parallel_ranges(m_.size(), 4096, [&](index_t begin, index_t end) {
      using Array = Eigen::Array<float, Eigen::Dynamic, 1>;
      constexpr index_t block = 1024;
      for (index_t i = begin; i < end; i += block) {
        const index_t n = std::min(block, end - i);
        const Eigen::Map<const Array> gradient(g + i, n);
        Eigen::Map<Array> m(m_.data() + i, n);
        Eigen::Map<Array> v(v_.data() + i, n);
        Eigen::Map<Array> weight(w + i, n);
        m += 0.1F * (gradient - m);
        v += 0.001F * (gradient.square() - v);
        weight = (1 - learning_rate * 0.01F) * weight -
                 learning_rate / correction1 * m / (v.sqrt() / root + 1e-8F);
        if constexpr (is_low_precision<T>) backend::host::Convert::round_array(w + i, rounded + i, n);
      }
    });
  }

 private:
  Buffer<float, Backend> m_;
  Buffer<float, Backend> v_;
  std::int64_t steps_ = 0;
};

/// Parameters in T: of 16 bits the rounded copy of a master in float, which optimizers step; otherwise the master itself.
template <class Backend, class T = float>
class Parameters {
 public:
  using Context = typename Backend::Context;
  Parameters(Context& ctx, Buffer<float, Backend> master) : master_(std::move(master)) {
    if constexpr (is_low_precision<T>) {
      rounded_.resize(ctx, master_.size());
      const index_t n = master_.size();
      Backend::template round_to<T>(ctx, master_.matrix(1, n), rounded_.matrix(1, n));
    }
  }
  /// A copy of `first`.
  Parameters(Context& ctx, MatrixView<const float> first) : Parameters(ctx, copied(ctx, first)) {}

  index_t size() const { return master_.size(); }
  index_t bytes() const { return master_.bytes() + rounded_.bytes(); }
  Buffer<float, Backend>& master() { return master_; }
  const T* data() const { return stored().data(); }
  MatrixView<T> matrix(index_t rows, index_t cols) {
    if constexpr (is_low_precision<T>) {
      return rounded_.matrix(rows, cols);
    } else {
      return master_.matrix(rows, cols);
    }
  }
  void step(Context& ctx, DenseAdamW<Backend, T>& adam, const float* gradient) {
    if constexpr (is_low_precision<T>) {
      adam.step(ctx, gradient, master_.data(), rounded_.data());
    } else {
      adam.step(ctx, gradient, master_.data());
    }
  }

 private:
  static Buffer<float, Backend> copied(Context& ctx, MatrixView<const float> first) {
    Buffer<float, Backend> copy(ctx, first.rows * first.cols);
    Backend::template copy<float>(ctx, first, copy.matrix(first.rows, first.cols));
    return copy;
  }
  const Buffer<T, Backend>& stored() const {
    if constexpr (is_low_precision<T>) {
      return rounded_;
    } else {
      return master_;
    }
  }

  Buffer<float, Backend> master_;
  Buffer<T, Backend> rounded_;  ///< empty where T is float
};

/// What every step has besides the weight: a bias with its dense optimizer.
template <class Backend, class T = float>
struct Bias {
  explicit Bias(typename Backend::Context& ctx, index_t out)
      : value(ctx, Buffer<float, Backend>(ctx, out)), gradient(ctx, out), adam(ctx, out) {}
  void update(typename Backend::Context& ctx) {
    value.step(ctx, adam, gradient.data());
    Backend::template zero<float>(ctx, gradient.data(), gradient.size());
  }
  Parameters<Backend, T> value;
  Buffer<float, Backend> gradient;
  DenseAdamW<Backend, T> adam;
};

/// sum = alpha A^T B + beta sum of tokens' matrices, in float.
template <class Backend, class T>
void sum_over_tokens(typename Backend::Context& ctx, float alpha, MatrixView<const T> a,
                     MatrixView<const T> b, float beta, MatrixView<float> sum) {
  if constexpr (is_low_precision<T>) {
    Backend::template gemm_wide<T>(ctx, Op::transpose, Op::none, alpha, a, b, beta, sum);
  } else {
    Backend::template gemm<T>(ctx, Op::transpose, Op::none, alpha, a, b, beta, sum);
  }
}

}  // namespace sparsegrad::bench
