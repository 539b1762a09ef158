// Lion on the kept entries: an optimizer of one's own.
#pragma once

#include <sparsegrad/moment_optimizer.hpp>

namespace methods {
using namespace sparsegrad;

struct LionOptions {
  double beta1 = 0.9, beta2 = 0.99;
  index_t capacity = 0;
  Overflow overflow = Overflow::evict_smallest;

  MomentLayout layout() const { return {.capacity = capacity, .overflow = overflow, .second = false}; }
  template <class T>
  void require_valid() const {
    if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1)) throw ValueError("expected 0 <= beta < 1");
  }
  template <class T>
  void describe(OptimizerState<T>& s) const {
    s.type = "lion 1";
    s.numbers = {{"beta1", beta1}, {"beta2", beta2}};
  }
  bool operator==(const LionOptions&) const = default;
};

/// d = -lr sign(b1 m + (1 - b1) g), then m <- b2 m + (1 - b2) g, for the entries g of S (Chen et al., "Symbolic Discovery
/// of Optimization Algorithms", 2023). For backends in the host's memory.
template <class T, class B = DefaultBackend>
class Lion : public MomentOptimizer<T, B, LionOptions> {
 public:
  using MomentOptimizer<T, B, LionOptions>::MomentOptimizer;

  StepReport step(typename B::Context& ctx, const SparseGradient<T, B>& s, const StepOptions& options,
                  SparseGradient<T, B>& d) {
    auto& store = this->store_;
    auto frame = ctx.frame();
    auto places = store.require_room(ctx, frame, s);
    core_optimizer::require_step(d, this->rows(), this->cols(), s.count(), options);
    core_optimizer::require_support(d, s);
    StepReport report{.updated = s.count()};
    store.admit(ctx, frame, s, places, report);
    store.insert(ctx, s, places);  // from here on nothing throws
    d.copy_support(ctx, s);
    const stored_index_t* place = store.places(s, places);  // null: entry e of S is entry e of the state
    const T b1 = T(this->options_.beta1), b2 = T(this->options_.beta2), lr = T(options.learning_rate);
    for (index_t e = 0; e < s.count(); ++e) {
      T& m = store.m()[place == nullptr ? e : place[e]];
      const T g = T(options.grad_scale) * s.values()[e], direction = b1 * m + (1 - b1) * g;
      d.values()[e] = direction > 0 ? -lr : direction < 0 ? lr : T(0);
      m = b2 * m + (1 - b2) * g;
    }
    ++this->steps_;
    report.state = this->size();
    return report;
  }
};
}  // namespace methods
