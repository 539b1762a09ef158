#include "adamw.hpp"

#include <algorithm>
#include <cmath>

namespace sparsegrad::glue {

namespace {

template <class T>
struct Coefficients {
  T keep, beta1, one_minus_beta1, beta2, one_minus_beta2, grad_scale, step_size, inverse_root, eps;
};

template <class T>
void update(const Coefficients<T>& c, index_t n, T* __restrict w, const T* __restrict g, T* __restrict m,
            T* __restrict v) {
  for (index_t i = 0; i < n; ++i) {
    const T gradient = g[i] * c.grad_scale;
    m[i] = c.beta1 * m[i] + c.one_minus_beta1 * gradient;
    v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (gradient * gradient);
    const T denominator = std::sqrt(v[i]) * c.inverse_root + c.eps;
    w[i] = w[i] * c.keep - c.step_size * (m[i] / denominator);
  }
}

}  // namespace

template <class T, class Backend>
AdamW<T, Backend>::AdamW(Context& ctx, std::vector<Segment> segments, AdamWOptions options)
    : segments_(std::move(segments)), options_(options) {
  index_t state = 0;
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    for (index_t begin = 0; begin < segments_[s].count; begin += chunk_count) {
      const index_t end = std::min(begin + chunk_count, segments_[s].count);
      chunks_.push_back({s, begin, end, state});
      state += end - begin;
    }
  }
  first_.resize(ctx, state);
  second_.resize(ctx, state);
  partial_.resize(chunks_.size());
}

template <class T, class Backend>
void AdamW<T, Backend>::reset(Context& ctx) {
  first_.resize(ctx, first_.size());
  second_.resize(ctx, second_.size());
  steps_ = 0;
}

template <class T, class Backend>
void AdamW<T, Backend>::step(Context& ctx, const Step& step) {
  ++steps_;
  const double t = static_cast<double>(steps_);
  const double correction1 = 1 - std::pow(options_.beta1, t);
  const double correction2 = 1 - std::pow(options_.beta2, t);
  ctx.parallel_for(static_cast<index_t>(chunks_.size()), [&](index_t number) {
    const Chunk& chunk = chunks_[static_cast<std::size_t>(number)];
    const Segment& segment = segments_[chunk.segment];
    const Coefficients<T> c{static_cast<T>(1 - step.learning_rate * segment.weight_decay),
                            static_cast<T>(options_.beta1),
                            static_cast<T>(1 - options_.beta1),
                            static_cast<T>(options_.beta2),
                            static_cast<T>(1 - options_.beta2),
                            static_cast<T>(step.grad_scale),
                            static_cast<T>(step.learning_rate / correction1),
                            static_cast<T>(1 / std::sqrt(correction2)),
                            static_cast<T>(options_.eps)};
    const index_t n = chunk.end - chunk.begin;
    update(c, n, segment.weight + chunk.begin, segment.gradient + chunk.begin, first_.data() + chunk.state,
           second_.data() + chunk.state);
    if (step.clear_gradients) std::fill_n(segment.gradient + chunk.begin, n, T(0));
  });
}

template <class T, class Backend>
double AdamW<T, Backend>::gradient_norm(Context& ctx) const {
  ctx.parallel_for(static_cast<index_t>(chunks_.size()), [&](index_t number) {
    const Chunk& chunk = chunks_[static_cast<std::size_t>(number)];
    const T* __restrict g = segments_[chunk.segment].gradient;
    constexpr int lanes = 8;
    double sums[lanes] = {};
    for (index_t i = chunk.begin; i < chunk.end; i += lanes) {
      const index_t count = std::min<index_t>(lanes, chunk.end - i);
      for (index_t l = 0; l < count; ++l)
        sums[l] += static_cast<double>(g[i + l]) * static_cast<double>(g[i + l]);
    }
    double sum = 0;
    for (const double lane : sums)
      sum += lane;
    partial_[static_cast<std::size_t>(number)] = sum;
  });
  double sum = 0;
  for (const double part : partial_)
    sum += part;
  return std::sqrt(sum);
}

template class AdamW<float, backend::CpuBlas>;
template class AdamW<double, backend::CpuBlas>;

}  // namespace sparsegrad::glue
