// SparseAdam: Adam on the entries of a sparse gradient.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "adam_options.hpp"
#include "adam_rebase.hpp"
#include "core/backend.hpp"
#include "core_optimizer.hpp"
#include "default_backend.hpp"
#include "moment_optimizer.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Adam on the entries of a sparse gradient of one core [rows, cols], with moments for the entries
/// met so far or for all (MomentStore). AdamSemantics has the formulas.
///
///     backend::Cpu::Context ctx;
///     SparseAdam<float> adam(ctx, 1, 6, {.capacity = 3});  // a core of 6 entries, at most 3 with moments
///     SparseGradient<float> s(ctx, 1, 6, 2), d(ctx, 1, 6, 2);
///     const std::vector<stored_index_t> positions{1, 4};
///     const std::vector<float> values{2, -3};
///     s.assign(ctx, positions, values);              // of a layer: layer.select(ctx, TopK{2}, s)
///     adam.step(ctx, s, {.learning_rate = 0.1}, d);  // D is -0.1 at 1 and 0.1 at 4; then layer.apply(ctx, d)
///
/// Decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) is
/// no part of it: it acts on the weight, where the layer applies it.
///
/// A step costs O(k) with a dense state, O(k log n + n) with a compact one of n entries; under
/// dense_core O(n). The constructor takes the state's memory; steps allocate nothing after
/// `reserve`, but for Overflow::go_dense, once.
template <class T, Backend B = DefaultBackend>
class SparseAdam : public MomentOptimizer<T, B, SparseAdamOptions> {
  using Base = MomentOptimizer<T, B, SparseAdamOptions>;

 public:
  using Base::Base;
  using Base::capacity;
  using Base::check;
  /// Columns of the core.
  using Base::cols;
  /// Whether the state holds some entries only, at their positions.
  using Base::compact;
  /// Rows of the core.
  using Base::rows;
  using Base::size;
  /// The bases of the core.
  using typename Base::Basis;
  /// The backend's context.
  using typename Base::Context;
  /// The sparse gradients that it takes.
  using typename Base::Gradient;
  /// The options' type.
  using typename Base::Options;

  /// Whether the state of such an optimizer begins compact: when that takes fewer bytes.
  static bool starts_compact(index_t rows, index_t cols, const Options& options) {
    return options.layout().template starts_compact<T>(rows, cols);
  }

  /// Entries that D is to be made for when S has at most k: k, but under dense_core all that the
  /// state may hold.
  index_t update_capacity(index_t k) const {
    if (!moves_all()) return k;
    const bool stays_compact = compact() && options_.overflow != Overflow::go_dense;
    return stays_compact ? options_.capacity : rows() * cols();
  }

  /// After this no step with at most k entries takes memory from the system (but for
  /// Overflow::go_dense, once).
  void reserve(Context& ctx, index_t k) const {
    index_t bytes = store_.scratch_bound(ctx, k) + index_t{4096};
    if (moves_all()) bytes += capacity() * static_cast<index_t>(2 * sizeof(T));
    ctx.scratch().reserve(bytes);
  }

  /// One step. D, another object than S, gets the update on S's support and carries -lr; under
  /// dense_core on all entries of the state, or on all of the core, the rest being 0, when D was
  /// made for that. S is not searched for NaN and Inf: whoever selects does that. When it throws,
  /// nothing has changed but D. Throws what `check` throws;
  /// ValueError for numbers out of range (require_numbers) or when D.capacity() <
  /// update_capacity(S.count()); NonFiniteError when grad_scale takes finite entries of S beyond T.
  StepReport step(Context& ctx, const Gradient& s, const StepOptions& step_options, Gradient& d) {
    auto frame = ctx.frame();
    auto places = store_.require_room(ctx, frame, s);
    core_optimizer::require_step(d, rows(), cols(), update_capacity(s.count()), step_options);
    require_numbers(step_options);
    core_optimizer::require_scaled<T, B>(ctx, s, step_options);
    core_optimizer::require_other(d, s);
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

  /// The largest scaled entry whose square is finite in T: Inf in v would be NaN a step later. A group
  /// refuses larger ones; `step` looks only at what grad_scale itself takes beyond T.
  static T largest_gradient() {
    return static_cast<T>(std::sqrt(static_cast<double>((std::numeric_limits<T>::max)())) *
                          (1 - 2 * static_cast<double>(std::numeric_limits<T>::epsilon())));
  }

  /// Throws ValueError unless the numbers of a step are in range in T (StepOptions), with
  /// learning_rate / (1 - beta1), the largest rate that bias correction makes of it.
  void require_numbers(const StepOptions& step_options) const {
    core_optimizer::require_numbers<T>(step_options);
    if (finite_in<T>(step_options.learning_rate / (1 - options_.beta1))) return;
    throw ValueError(
        "learning_rate is " + number_text(step_options.learning_rate) +
        ", expected learning_rate / (1 - beta1) <= " + number_text((std::numeric_limits<T>::max)()) +
        " with beta1 = " + number_text(options_.beta1));
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

  /// Whether a step with S is one Adam update of S's entries in a dense state, which `take_step`
  /// can hand out.
  bool steps_in_place(const Gradient& s) const { return !compact() && (!moves_all() || s.dense()); }

  /// Counts a step and leaves its work to the caller, for Backend::adam_batched with `coefficients`
  /// from before: the update goes to the entries of D [rows, cols], dense, that are in S. Throws
  /// what `check` throws, and StateError unless steps_in_place(S).
  AdamTask<T> take_step(Context& ctx, const Gradient& s, T* d) {
    check(ctx, s);
    if (!steps_in_place(s))
      throw StateError("take_step: the state is compact or moves more entries than S has; use step");
    ++steps_;
    return {s.values(), s.indices(), s.count(), store_.m(), store_.v(), store_.count(), d, steps_, nullptr};
  }

  /// Sets the count of steps, for a caller that counted them elsewhere. Throws ValueError unless it
  /// is in [0, most_saved_steps].
  void set_steps(std::int64_t steps) {
    if (steps < 0 || steps > most_saved_steps)
      throw ValueError("steps is " + std::to_string(steps) + ", expected 0 <= steps <= 2^53");
    steps_ = steps;
  }

  /// As the base says, with transport_adam.
  RebaseReport rebase(Context& ctx, const Basis& from, const Basis& to, MomentsPolicy policy,
                      const Options& options) {
    const auto transport = [&](Context& c, OptimizerState<T>& s, const Basis& old, const Basis& next,
                               std::optional<index_t> room) {
      return transport_adam<T, B>(c, s, old, next, options, room);
    };
    return Base::rebase(ctx, from, to, policy, options, transport);
  }
  /// Rebases with the options that it has.
  RebaseReport rebase(Context& ctx, const Basis& from, const Basis& to, MomentsPolicy policy) {
    return rebase(ctx, from, to, policy, Options(options_));
  }

  /// Calls f(name, view) for every array of the state, in the order step, index (compact only), m,
  /// v, count (per_entry_step only): `view` is a std::span of const std::int64_t ("step", in host
  /// memory), stored_index_t, T, T and std::int32_t in the backend's memory. Equal states give
  /// equal bytes.
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

 private:
  using Base::options_;
  using Base::steps_;
  using Base::store_;
  using Places = typename MomentStore<T, B>::Places;

  bool moves_all() const { return options_.semantics == AdamSemantics::dense_core; }

  /// The step of dense_core with a sparse S: every entry of the state moves, with g = 0 outside of
  /// S.
  template <class Frame>
  void step_all(Context& ctx, Frame& frame, const Gradient& s, const Places& places,
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
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
