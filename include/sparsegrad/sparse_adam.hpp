// SparseAdam: Adam on the entries of a sparse gradient.
#pragma once

#include <cstdint>
#include <cstdio>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "adam_options.hpp"
#include "adam_rebase.hpp"
#include "adam_state.hpp"
#include "core/backend.hpp"
#include "core_optimizer.hpp"
#include "default_backend.hpp"
#include "moment_store.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad {

/// Adam on the entries of a sparse gradient of one core [rows, cols], with moments for the entries met so far or for all
/// (MomentStore). AdamSemantics has the formulas.
///
///     SparseAdam<float> adam(ctx, layer.basis()->rows(), layer.basis()->cols(), {.capacity = 4 * k});
///     SparseGradient<float> s(ctx, adam.rows(), adam.cols(), k), d(ctx, adam.rows(), adam.cols(), k);
///     layer.select(ctx, TopK{k}, s);                        // S: the k largest entries of the core gradient
///     adam.step(ctx, s, {.learning_rate = 1e-4}, d);        // D: the update of these entries
///     layer.apply(ctx, d, decay);                           // W <- (1 - decay) W + V D U^T
///
/// Decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) is no part of it: it
/// acts on the weight, where the layer applies it.
///
/// A step costs O(k) with a dense state, O(k log n + n) with a compact one of n entries; under dense_core O(n). The
/// constructor takes the state's memory; steps allocate nothing after `reserve`, but for Overflow::go_dense, once.
template <class T, Backend B = DefaultBackend>
class SparseAdam {
 public:
  using Context = typename B::Context;
  using Gradient = SparseGradient<T, B>;
  using Options = SparseAdamOptions;

  /// Throws ValueError unless 0 <= beta < 1, eps is at least T's smallest normal number, capacity >= 0 and
  /// rows * cols < 2^31.
  SparseAdam(Context& ctx, index_t rows, index_t cols, const Options& options = {})
      : options_(checked(options)), store_(ctx, rows, cols, layout(options)) {}

  /// Whether the state of such an optimizer begins compact: when that takes fewer bytes.
  static bool starts_compact(index_t rows, index_t cols, const Options& options) {
    return Store::starts_compact(rows, cols, layout(options));
  }

  index_t rows() const { return store_.rows(); }
  index_t cols() const { return store_.cols(); }
  const Options& options() const { return options_; }
  bool compact() const { return store_.compact(); }
  /// Entries with moments: held ones when compact, rows * cols when dense.
  index_t size() const { return store_.size(); }
  /// Entries that the state has room for.
  index_t capacity() const { return store_.capacity(); }
  index_t bytes() const { return store_.bytes(); }
  /// Steps taken: t of the last step.
  std::int64_t steps() const { return steps_; }

  /// Entries that D is to be made for when S has at most k: k, but under dense_core all that the state may hold.
  index_t update_capacity(index_t k) const {
    if (!moves_all()) return k;
    const bool stays_compact = compact() && options_.overflow != Overflow::go_dense;
    return stays_compact ? options_.capacity : rows() * cols();
  }

  /// After this no step with at most k entries takes memory from the system (but for Overflow::go_dense, once).
  void reserve(Context& ctx, index_t k) const {
    index_t bytes = store_.scratch_bound(ctx, k) + index_t{4096};
    if (moves_all()) bytes += capacity() * static_cast<index_t>(2 * sizeof(T));
    ctx.scratch().reserve(bytes);
  }

  /// Throws what `step` would throw for this gradient, and changes nothing: ShapeError; CapacityError when S alone exceeds
  /// the capacity, or under Overflow::error; NonFiniteError when entries must be evicted by moments that hold NaN or Inf.
  void check(Context& ctx, const Gradient& s) const { store_.check(ctx, s); }

  /// Makes room for S where `step` would go dense to have it (Overflow::go_dense), and changes no moment: a caller with
  /// many states so takes the memory of all before the first of them steps.
  void make_room(Context& ctx, const Gradient& s) { store_.make_room(ctx, s); }

  /// One step. D, another object than S, gets the update on S's support and carries -lr; under dense_core on all entries
  /// of the state, or on the whole core, the rest being 0, when D was made for that. When it throws, nothing has changed
  /// but D. Throws what `check` throws; ValueError for a learning rate or scale that is not finite or when
  /// D.capacity() < update_capacity(S.count()).
  StepReport step(Context& ctx, const Gradient& s, const StepOptions& step_options, Gradient& d) {
    auto frame = ctx.frame();
    auto places = store_.require_room(ctx, frame, s);
    core_optimizer::require_step(d, rows(), cols(), update_capacity(s.count()), step_options);
    if (!moves_all()) core_optimizer::require_support(d, s);
    StepReport report;
    store_.admit(ctx, frame, s, places, report);
    const AdamCoefficients c = coefficients(step_options);
    if (moves_all() && !s.dense()) {
      step_all(ctx, frame, s, places, c, d);
    } else {
      store_.insert(ctx, s, places);  // from here on nothing throws
      d.copy_support(ctx, s);
      B::template adam<T>(ctx, c, s.values(), store_.places(s, places), s.count(), store_.m(), store_.v(),
                          store_.count(), d.values());
    }
    ++steps_;
    report.updated = d.count();
    report.state = size();
    return report;
  }

  /// The numbers of the next step.
  AdamCoefficients coefficients(const StepOptions& step_options) const {
    AdamCoefficients c;
    c.learning_rate = step_options.learning_rate;
    c.grad_scale = step_options.grad_scale;
    c.beta1 = options_.beta1;
    c.beta2 = options_.beta2;
    c.eps = options_.eps;
    c.step = steps_ + 1;
    c.eps_uncorrected = options_.semantics == AdamSemantics::torch;
    return c;
  }

  /// Whether a step with S is one Adam update of S's entries in a dense state, which `take_step` can hand out.
  bool steps_in_place(const Gradient& s) const { return !compact() && (!moves_all() || s.dense()); }

  /// Counts a step and leaves its work to the caller, for Backend::adam_batched with `coefficients` from before: the
  /// update goes to the entries of D [rows, cols], dense, that are in S. Throws what `check` throws, and StateError unless
  /// steps_in_place(S).
  AdamTask<T> take_step(Context& ctx, const Gradient& s, T* d) {
    check(ctx, s);
    if (!steps_in_place(s))
      throw StateError("take_step: the state is compact or moves more entries than S has; use step");
    ++steps_;
    return {s.values(), s.indices(), s.count(), store_.m(), store_.v(), store_.count(), d, steps_, nullptr};
  }

  /// Sets the count of steps, for a caller that counted them elsewhere. Throws ValueError when it is negative.
  void set_steps(std::int64_t steps) {
    if (steps < 0) throw ValueError("steps is " + std::to_string(steps) + ", expected >= 0");
    steps_ = steps;
  }

  /// Empties the state; the step count starts anew. A state that went dense stays dense.
  void reset(Context& ctx) {
    store_.clear(ctx);
    steps_ = 0;
  }

  /// Carries the state over to a new basis, or empties it (MomentsPolicy). transport_moments and transport_adam have the
  /// formulas. A compact state stays as large as it was: of the new moments those with the largest absolute values are
  /// kept. One that went dense stays dense. The step count stays. The core may change its extents, and the state its
  /// capacity with them: `options` may differ from the optimizer's in that alone (ValueError). Throws ShapeError unless
  /// `from` belongs to this core and both bases to weights of the same extents. Allocates; when it throws, nothing has
  /// changed.
  RebaseReport rebase(Context& ctx, const TuckerBasis<T, B>& from, const TuckerBasis<T, B>& to,
                      MomentsPolicy policy, const Options& options);
  RebaseReport rebase(Context& ctx, const TuckerBasis<T, B>& from, const TuckerBasis<T, B>& to,
                      MomentsPolicy policy) {
    return rebase(ctx, from, to, policy, Options(options_));
  }

  /// Calls f(name, view) for every array of the state, in the order step, index (compact only), m, v, count
  /// (per_entry_step only): `view` is a std::span of const std::int64_t ("step", in host memory), stored_index_t, T, T and
  /// std::int32_t in the backend's memory. Equal states give equal bytes.
  template <class F>
  void visit_state(F&& f) const {
    const auto n = static_cast<std::size_t>(size());
    f(std::string_view("step"), std::span<const std::int64_t>(&steps_, 1));
    if (compact()) f(std::string_view("index"), std::span<const stored_index_t>(store_.index(), n));
    f(std::string_view("m"), std::span<const T>(store_.m(), n));
    f(std::string_view("v"), std::span<const T>(store_.v(), n));
    if (store_.layout().counts)
      f(std::string_view("count"), std::span<const std::int32_t>(store_.count(), n));
  }

  /// A copy of the state in host memory: arrays "m" and "v".
  OptimizerState<T> state(Context& ctx) const {
    OptimizerState<T> s = store_.state(ctx);
    put_adam_options(s, options_);
    s.steps = steps_;
    return s;
  }

  /// Takes a state over, bit by bit. Throws ValueError, saying what differs, unless it is a SparseAdam's for a core of
  /// these extents, was made with the same options, and is valid (MomentStore::require_state). When it throws, nothing has
  /// changed.
  void restore(Context& ctx, const OptimizerState<T>& s) {
    require_adam_state(s, rows(), cols(), options_);
    store_.restore(ctx, s);
    steps_ = s.steps;
  }

 private:
  using Store = MomentStore<T, B>;

  bool moves_all() const { return options_.semantics == AdamSemantics::dense_core; }

  static MomentLayout layout(const Options& options) {
    return {options.capacity, options.overflow, true, options.semantics == AdamSemantics::per_entry_step};
  }

  static const Options& checked(const Options& o) {
    for (const auto& [name, beta] : {std::pair("beta1", o.beta1), std::pair("beta2", o.beta2)}) {
      if (!is_finite(beta) || beta < 0 || beta >= 1) {
        throw ValueError(std::string(name) + " is " + std::to_string(beta) + ", expected 0 <= " + name +
                         " < 1");
      }
    }
    constexpr auto least = static_cast<double>(std::numeric_limits<T>::min());
    constexpr auto most = static_cast<double>(std::numeric_limits<T>::max());
    if (!is_finite(o.eps) || o.eps < least || o.eps > most) {
      char text[96];
      std::snprintf(text, sizeof text,
                    "eps is %.3g, expected a finite number >= %.3g, the smallest normal one", o.eps, least);
      throw ValueError(text);
    }
    return o;
  }

  /// The step of dense_core with a sparse S: every entry of the state moves, with g = 0 outside of S.
  template <class Frame>
  void step_all(Context& ctx, Frame& frame, const Gradient& s, const typename Store::Places& places,
                const AdamCoefficients& c, Gradient& d) {
    const index_t n = store_.size_with(places);
    T* gradient = frame.template take<T>(n);
    // A D made for all entries has no room for the positions of some.
    const bool fill = compact() && d.capacity() == d.size();
    T* update = fill ? frame.template take<T>(n) : nullptr;
    store_.insert(ctx, s, places);  // from here on nothing throws
    B::template zero<T>(ctx, gradient, n);
    B::template scatter<T>(ctx, s.values(), store_.places(s, places), s.count(), gradient);
    d.set_count(fill ? d.size() : n);
    if (!d.dense() && n > 0) {
      B::template copy<stored_index_t>(ctx, MatrixView<const stored_index_t>(store_.index(), 1, n),
                                       MatrixView<stored_index_t>(d.indices(), 1, n));
    }
    if (!fill) update = d.values();
    B::template adam<T>(ctx, c, gradient, nullptr, n, store_.m(), store_.v(), nullptr, update);
    if (!fill) return;
    B::template zero<T>(ctx, d.values(), d.size());
    B::template scatter<T>(ctx, update, store_.index(), n, d.values());
  }

  Options options_;
  Store store_;
  std::int64_t steps_ = 0;
};

template <class T, Backend B>
RebaseReport SparseAdam<T, B>::rebase(Context& ctx, const TuckerBasis<T, B>& from,
                                      const TuckerBasis<T, B>& to, MomentsPolicy policy,
                                      const Options& options) {
  core_optimizer::require_bases(from, to, rows(), cols());
  Store::require(to.rows(), to.cols(), options.capacity);
  Options same = options;
  same.capacity = options_.capacity;
  if (same != options_)
    throw ValueError("rebase: the options may differ from the optimizer's in capacity alone");

  OptimizerState<T> s = state(ctx);
  if (policy == MomentsPolicy::reset) {
    RebaseReport report = lost_moments(s);
    if (to.rows() != rows() || to.cols() != cols() || options != options_) {
      *this = SparseAdam(ctx, to.rows(), to.cols(), options);
    } else {
      reset(ctx);
    }
    report.entries = size();
    return report;
  }
  SparseAdam next(ctx, to.rows(), to.cols(), options);
  const RebaseReport report = transport_adam<T, B>(ctx, s, from, to, options_, next.store_.room_for(store_));
  put_adam_options(s, options);
  next.restore(ctx, s);
  *this = std::move(next);
  return report;
}

}  // namespace sparsegrad
