// SparseSgd: stochastic gradient descent with momentum on the entries of a sparse gradient.
#pragma once

#include "../moment_store.hpp"
#include "../moment_transport.hpp"

namespace sparsegrad {

struct SparseSgdOptions {
  double momentum = 0.9;  ///< mu, 0 <= mu < 1
  bool nesterov = false;
  index_t capacity = 0;  ///< entries of a compact state; 0: dense
  Overflow overflow = Overflow::go_dense;

  friend bool operator==(const SparseSgdOptions&, const SparseSgdOptions&) = default;
};

/// Stochastic gradient descent with momentum on one core [rows, cols], of which only the entries of S move:
///     m <- mu m + g        d = -lr m, with `nesterov` d = -lr (g + mu m)
/// An entry that is not in S keeps its m and does not move. With k = all this is torch.optim.SGD (Sutskever, Martens,
/// Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013). Errors, costs and
/// `rebase` are SparseAdam's; m is linear in the gradients, so that it is carried over exactly between full bases.
template <class T, Backend B = DefaultBackend>
class SparseSgd {
 public:
  using Context = typename B::Context;
  using Gradient = SparseGradient<T, B>;
  using Basis = TuckerBasis<T, B>;
  using Options = SparseSgdOptions;

  /// Throws ValueError unless 0 <= momentum < 1, capacity >= 0 and rows * cols < 2^31.
  SparseSgd(Context& ctx, index_t rows, index_t cols, const Options& options = {})
      : options_(options), store_(ctx, rows, cols, {options.capacity, options.overflow, false, false}) {
    if (!is_finite(options.momentum) || options.momentum < 0 || options.momentum >= 1)
      throw ValueError("momentum is " + std::to_string(options.momentum) + ", expected 0 <= momentum < 1");
  }

  index_t rows() const { return store_.rows(); }
  index_t cols() const { return store_.cols(); }
  index_t bytes() const { return store_.bytes(); }
  std::int64_t steps() const { return steps_; }
  bool compact() const { return store_.compact(); }
  index_t size() const { return store_.size(); }

  void reserve(Context& ctx, index_t k) const {
    ctx.scratch().reserve(store_.scratch_bound(ctx, k) + k * static_cast<index_t>(sizeof(T)) + 4096);
  }
  void check(Context& ctx, const Gradient& s) const { store_.check(ctx, s); }
  void make_room(Context& ctx, const Gradient& s) { store_.make_room(ctx, s); }

  StepReport step(Context& ctx, const Gradient& s, const StepOptions& options, Gradient& d) {
    auto frame = ctx.frame();
    auto places = store_.require_room(ctx, frame, s);
    core_optimizer::require_step(d, rows(), cols(), s.count(), options);
    core_optimizer::require_support(d, s);
    StepReport report;
    store_.admit(ctx, frame, s, places, report);
    const index_t k = s.count();
    T* part = frame.template take<T>(k);
    store_.insert(ctx, s, places);  // from here on nothing throws
    d.copy_support(ctx, s);
    const stored_index_t* place = store_.places(s, places);
    const MatrixView<T> m(place == nullptr ? store_.m() : part, 1, k);
    const MatrixView<T> update(d.values(), 1, k);
    const MatrixView<const T> g(s.values(), 1, k);
    const auto mu = static_cast<T>(options_.momentum);
    const auto scale = static_cast<T>(options.grad_scale);
    const auto lr = static_cast<T>(options.learning_rate);
    if (place != nullptr) B::template gather<T>(ctx, store_.m(), place, k, m.data);
    B::template scale<T>(ctx, mu, m);
    B::template add<T>(ctx, scale, g, m);
    if (place != nullptr) B::template scatter<T>(ctx, m.data, place, k, store_.m());
    B::template copy<T>(ctx, m, update);
    B::template scale<T>(ctx, options_.nesterov ? -lr * mu : -lr, update);
    if (options_.nesterov) B::template add<T>(ctx, -lr * scale, g, update);
    ++steps_;
    report.updated = k;
    report.state = size();
    return report;
  }

  void reset(Context& ctx) {
    store_.clear(ctx);
    steps_ = 0;
  }

  RebaseReport rebase(Context& ctx, const Basis& from, const Basis& to, MomentsPolicy policy,
                      const Options& options) {
    core_optimizer::require_bases(from, to, rows(), cols());
    SparseSgd next(ctx, to.rows(), to.cols(), options);
    OptimizerState<T> s = state(ctx);
    RebaseReport report = lost_moments(s);
    if (policy == MomentsPolicy::transport) {
      report = transport_moments<T, B>(ctx, s, from, to, next.store_.room_for(store_));
      next.store_.restore(ctx, s);
      next.steps_ = steps_;
    }
    *this = std::move(next);
    report.entries = size();
    return report;
  }

  OptimizerState<T> state(Context& ctx) const {
    OptimizerState<T> s = store_.state(ctx);
    s.type = state_type;
    s.steps = steps_;
    s.numbers = {{"momentum", options_.momentum}, {"nesterov", options_.nesterov ? 1 : 0}};
    s.texts = {{"overflow", to_string(options_.overflow)}};
    return s;
  }

  void restore(Context& ctx, const OptimizerState<T>& s) {
    using core_optimizer::require_option;
    core_optimizer::require_state(s, state_type, rows(), cols());
    require_option("momentum", s.number("momentum"), options_.momentum);
    require_option("nesterov", s.number("nesterov"), options_.nesterov ? 1.0 : 0.0);
    require_option("capacity", s.capacity, options_.capacity);
    require_option("overflow policy", s.text("overflow"), to_string(options_.overflow));
    store_.restore(ctx, s);
    steps_ = s.steps;
  }

 private:
  static constexpr const char* state_type = "sparse_sgd 1";

  Options options_;
  MomentStore<T, B> store_;
  std::int64_t steps_ = 0;
};

}  // namespace sparsegrad
