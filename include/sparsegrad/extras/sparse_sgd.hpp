// SparseSgd: stochastic gradient descent with momentum on the entries of a sparse gradient.
#pragma once

#include <limits>

#include "../moment_optimizer.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Options of SparseSgd.
struct SparseSgdOptions {
  double momentum = 0.9;  ///< mu, 0 <= mu < 1, also once it is rounded to T
  /// Whether the update looks ahead (Nesterov).
  bool nesterov = false;
  index_t capacity = 0;  ///< entries of a compact state; 0: dense
  /// What becomes of new entries when a compact state is full.
  Overflow overflow = Overflow::evict_smallest;

  /// The form of the moments that these options ask for.
  MomentLayout layout() const { return {.capacity = capacity, .overflow = overflow, .second = false}; }
  /// Throws ValueError unless the numbers are in range.
  template <class T>
  void require_valid() const {
    if (is_finite(momentum) && momentum >= 0 && momentum < 1 && static_cast<T>(momentum) < T(1)) return;
    throw ValueError("momentum is " + number_text(momentum) +
                     ", expected 0 <= momentum <= " + number_text(1 - std::numeric_limits<T>::epsilon() / 2));
  }
  /// Writes the options to a saved state, for `restore` to compare.
  template <class T>
  void describe(OptimizerState<T>& s) const {
    s.type = "sparse_sgd 1";
    s.numbers = {{"momentum", momentum}, {"nesterov", nesterov ? 1 : 0}};
  }
  /// Whether all members are equal.
  friend bool operator==(const SparseSgdOptions&, const SparseSgdOptions&) = default;
};

/// Stochastic gradient descent with momentum on one core [rows, cols], of which only the entries of
/// S move:
///
///     m <- mu m + g        d = -lr m, with `nesterov` d = -lr (g + mu m)
///
/// An entry that is not in S keeps its m and does not move. With k = all this is torch.optim.SGD
/// (Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep
/// learning", ICML 2013). As m is linear in the gradients, `rebase` is exact between full bases.
template <class T, Backend B = DefaultBackend>
class SparseSgd : public MomentOptimizer<T, B, SparseSgdOptions> {
 public:
  using MomentOptimizer<T, B, SparseSgdOptions>::MomentOptimizer;
  /// The sparse gradients that it takes.
  using Gradient = SparseGradient<T, B>;

  /// Throws ValueError unless the numbers of a step are in range in T (StepOptions), and, with
  /// `nesterov`, learning_rate * grad_scale is finite in T.
  void require_numbers(const StepOptions& step) const {
    core_optimizer::require_numbers<T>(step);
    if (!this->options_.nesterov || finite_in<T>(step.learning_rate * step.grad_scale)) return;
    throw ValueError("learning_rate * grad_scale is " + number_text(step.learning_rate * step.grad_scale) +
                     ", expected a magnitude <= " + number_text((std::numeric_limits<T>::max)()));
  }

  /// One step; O(k) with a dense state. Throws as SparseAdam::step, with nothing changed but D.
  StepReport step(typename B::Context& ctx, const Gradient& s, const StepOptions& options, Gradient& d) {
    auto& store = this->store_;
    auto frame = ctx.frame();
    auto places = store.require_room(ctx, frame, s);
    core_optimizer::require_step(d, this->rows(), this->cols(), s.count(), options);
    core_optimizer::require_other(d, s);
    core_optimizer::require_support(d, s);
    require_numbers(options);
    core_optimizer::require_scaled<T, B>(ctx, s, options);
    StepReport report;
    store.admit(ctx, frame, s, places, report);
    const index_t k = s.count();
    T* part = frame.template take<T>(k);
    store.insert(ctx, s, places);  // from here on nothing throws
    d.copy_support(ctx, s);
    const auto mu = static_cast<T>(this->options_.momentum);
    const auto scale = static_cast<T>(options.grad_scale);
    const auto lr = static_cast<T>(options.learning_rate);
    const bool nesterov = this->options_.nesterov;
    const stored_index_t* place = store.places(s, places);
    const MatrixView<T> m(place == nullptr ? store.m() : part, 1, k);
    const MatrixView<T> update(d.values(), 1, k);
    const MatrixView<const T> g(s.values(), 1, k);
    if (place != nullptr) B::template gather<T>(ctx, store.m(), place, k, m.data);
    B::template scale<T>(ctx, mu, m);
    B::template add<T>(ctx, scale, g, m);
    if (place != nullptr) B::template scatter<T>(ctx, m.data, place, k, store.m());
    B::template copy<T>(ctx, m, update);
    B::template scale<T>(ctx, nesterov ? -lr * mu : -lr, update);
    if (nesterov) B::template add<T>(ctx, -lr * scale, g, update);
    ++this->steps_;
    report.updated = k;
    report.state = this->size();
    return report;
  }
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
