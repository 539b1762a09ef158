// MomentOptimizer: all of an optimizer on a MomentStore but its step.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "core_optimizer.hpp"
#include "moment_store.hpp"
#include "moment_transport.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Base of optimizers whose state is a MomentStore: memory, checks, rebase and saved states,
/// everything that a CoreOptimizer has but `step`. The class that derives from it has no data of
/// its own, inherits the constructor and writes `step` (extras/sparse_sgd.hpp is the shortest).
///
/// `Options` is comparable, has the members `index_t capacity` and `Overflow overflow`, and
///
/// | member | meaning |
/// |---|---|
/// | `layout()` | the MomentLayout that these options ask for |
/// | `require_valid<T>()` | throws ValueError, naming the option, where a number makes no sense |
/// | `describe(OptimizerState<T>&)` | sets `type` (name and version), `numbers` and `texts`: what tells states apart |
template <class T, Backend B, class Options_>
class MomentOptimizer {
  static_assert(is_compute_type<T>,
                "an optimizer's moments are float or double: expected a group or layer of float, double, "
                "sparsegrad::bfloat16 or sparsegrad::float16");

 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The sparse gradients that it takes.
  using Gradient = SparseGradient<T, B>;
  /// The bases of the core.
  using Basis = TuckerBasis<T, B>;
  /// The options' type.
  using Options = Options_;

  /// Throws ValueError for options that are not valid, capacity < 0 or rows * cols >= 2^31.
  MomentOptimizer(Context& ctx, index_t rows, index_t cols, const Options& options = {})
      : options_(checked(options)), store_(ctx, rows, cols, options.layout()) {}

  /// Rows of the core.
  index_t rows() const { return store_.rows(); }
  /// Columns of the core.
  index_t cols() const { return store_.cols(); }
  /// The options that it was made with.
  const Options& options() const { return options_; }
  /// Whether the state holds some entries only, at their positions.
  bool compact() const { return store_.compact(); }
  /// Entries with moments: held ones when compact, rows * cols when dense.
  index_t size() const { return store_.size(); }
  /// Entries that the state has room for.
  index_t capacity() const { return store_.capacity(); }
  /// Bytes of backend memory held.
  index_t bytes() const { return store_.bytes(); }
  /// Steps taken: t of the last step.
  std::int64_t steps() const { return steps_; }

  /// After this no step with at most k entries takes memory from the system (but for
  /// Overflow::go_dense, once), if the step itself takes two arrays of k numbers at most.
  void reserve(Context& ctx, index_t k) const {
    const index_t own = k * static_cast<index_t>(2 * sizeof(T));
    ctx.scratch().reserve(store_.scratch_bound(ctx, k) + own + index_t{4096});
  }

  /// Throws what `step` would throw for this gradient, and changes nothing: ShapeError;
  /// CapacityError when S alone exceeds the capacity, or under Overflow::error; NonFiniteError when
  /// entries must be evicted by moments that hold NaN or Inf.
  void check(Context& ctx, const Gradient& s) const { store_.check(ctx, s); }

  /// Makes room for S where `step` would go dense to have it (Overflow::go_dense), and changes no
  /// moment: a caller with many states so takes the memory of all before the first of them steps.
  /// Returns whether the state became dense.
  bool make_room(Context& ctx, const Gradient& s) { return store_.make_room(ctx, s); }

  /// Empties the state; the step count starts anew. A state that went dense stays dense.
  void reset(Context& ctx) {
    store_.clear(ctx);
    steps_ = 0;
  }

  /// Carries the state over to a new basis, or empties it (MomentsPolicy). transport_moments has
  /// the formulas. A compact state stays as large as it was: of the new moments those with the
  /// largest absolute values are kept. One that went dense stays dense. The step count stays. The
  /// core may change its extents, and the state its capacity with them: `options` may differ from
  /// the optimizer's in that alone (ValueError). Throws ShapeError unless `from` belongs to this
  /// core and both bases to weights of the same extents. Allocates; when it throws, nothing has
  /// changed.
  RebaseReport rebase(Context& ctx, const Basis& from, const Basis& to, MomentsPolicy policy,
                      const Options& options) {
    return rebase(ctx, from, to, policy, options, transport_moments<T, B>);
  }
  /// The same with the optimizer's own capacity.
  RebaseReport rebase(Context& ctx, const Basis& from, const Basis& to, MomentsPolicy policy) {
    return rebase(ctx, from, to, policy, Options(options_));
  }

  /// A copy of the state in host memory: arrays "m" and, where there are second moments, "v".
  OptimizerState<T> state(Context& ctx) const {
    OptimizerState<T> s = store_.state(ctx);
    describe(s, options_);
    s.steps = steps_;
    return s;
  }

  /// Takes a state over, bit by bit. Throws ValueError, saying what differs, unless it is this
  /// optimizer's for a core of these extents, was made with the same options, and is valid
  /// (require_moments). When it throws, nothing has changed.
  void restore(Context& ctx, const OptimizerState<T>& s) {
    OptimizerState<T> own;
    options_.describe(own);
    core_optimizer::require_state(s, own.type, rows(), cols());
    for (const auto& [name, number] : own.numbers)
      core_optimizer::require_option(name, s.number(name), number);
    for (const auto& [name, text] : own.texts)
      core_optimizer::require_option(name, s.text(name), text);
    core_optimizer::require_option("capacity", s.capacity, options_.capacity);
    core_optimizer::require_option("overflow policy", s.text("overflow"), to_string(options_.overflow));
    store_.restore(ctx, s);
    steps_ = s.steps;
  }

 protected:
  /// `rebase` with the optimizer's own way to carry moments over, called as transport_moments is.
  template <class Transport>
  RebaseReport rebase(Context& ctx, const Basis& from, const Basis& to, MomentsPolicy policy,
                      const Options& options, Transport transport);

  /// The options that it was made with.
  Options options_;
  /// The moments.
  MomentStore<T, B> store_;
  /// Steps taken.
  std::int64_t steps_ = 0;

 private:
  static const Options& checked(const Options& options) {
    options.template require_valid<T>();
    return options;
  }
  static void describe(OptimizerState<T>& s, const Options& options) {
    options.describe(s);
    s.capacity = options.capacity;
    s.texts.emplace_back("overflow", to_string(options.overflow));
  }
};

template <class T, Backend B, class Options_>
template <class Transport>
RebaseReport MomentOptimizer<T, B, Options_>::rebase(Context& ctx, const Basis& from, const Basis& to,
                                                     MomentsPolicy policy, const Options& options,
                                                     Transport transport) {
  core_optimizer::require_bases(from, to, rows(), cols());
  require_moment_extents(to.rows(), to.cols(), options.capacity);
  Options same = options;
  same.capacity = options_.capacity;
  if (same != options_)
    throw ValueError("rebase: the options may differ from the optimizer's in capacity alone");

  OptimizerState<T> s = store_.state(ctx);
  RebaseReport report = lost_moments(s);
  const bool new_memory = to.rows() != rows() || to.cols() != cols() || options != options_;
  if (policy == MomentsPolicy::reset && !new_memory) {
    reset(ctx);
  } else {
    MomentOptimizer next(ctx, to.rows(), to.cols(), options);
    if (policy == MomentsPolicy::transport) {
      report = transport(ctx, s, from, to, next.store_.room_for(store_));
      next.store_.restore(ctx, s);
      next.steps_ = steps_;
    }
    *this = std::move(next);
  }
  report.entries = size();
  return report;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
