// Fira: Adam in a subspace, and a scaled gradient outside of it.
#pragma once

#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <cmath>

namespace methods {
using namespace sparsegrad;

/// With R = P^T G and psi = Adam(R) on one truncated out side P:
///     W -= lr (P psi + S)      column j of S:  phi_j (G - P R)_j,  phi_j = |psi_j| / |R_j|
/// where |S| grows by a factor of at most 1.01 a step (Chen et al., "Fira: Can We Achieve Full-rank Training of LLMs
/// Under Low-rank Constraint?", NeurIPS 2025). The first term is SparseAdam's. For backends in the host's memory.
template <class T, class B = DefaultBackend>
class Fira : public SparseAdam<T, B> {
 public:
  using SparseAdam<T, B>::SparseAdam;
  using Context = typename B::Context;

  void use_remainder(Context& ctx, const GradientRemainder<T, B>& r) {
    if (r.step.learning_rate == 0) return;
    auto frame = ctx.frame();
    const MatrixView<T> rest = frame.template matrix<T>(r.gradient.rows, r.gradient.cols);
    r.basis->expand(ctx, r.core, T(0), rest);
    double sum = 0;
    for (index_t j = 0; j < rest.cols; ++j) {
      double update = 0, core = 0;
      for (index_t i = 0; i < r.core.rows; ++i) {
        update += std::pow(r.update->matrix()(i, j), 2);
        core += std::pow(r.core(i, j), 2);
      }
      const double phi = core > 0 ? std::sqrt(update / core) : 0;  // lr and grad_scale are in it
      for (index_t i = 0; i < rest.rows; ++i) {
        rest(i, j) = T(phi * (r.gradient(i, j) - rest(i, j)));
        sum += std::pow(rest(i, j), 2);
      }
    }
    const double norm = std::sqrt(sum) / r.step.learning_rate;  // of S
    last_norm_ = last_norm_ > 0 ? std::min(norm, 1.01 * last_norm_) : norm;
    if (norm > 0) r.add_to_weight(ctx, T(-last_norm_ / norm), rest);
  }
  OptimizerState<T> state(Context& ctx) const {
    auto s = SparseAdam<T, B>::state(ctx);
    s.numbers.emplace_back("remainder_norm", last_norm_);
    return s;
  }
  void restore(Context& ctx, const OptimizerState<T>& s) {
    const double norm = s.number("remainder_norm");
    SparseAdam<T, B>::restore(ctx, s);
    last_norm_ = norm;
  }

 private:
  double last_norm_ = 0;
};
}  // namespace methods
