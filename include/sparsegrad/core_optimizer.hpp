// CoreOptimizer: what an optimizer of a core is, and what all of them share.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/float_bits.hpp"
#include "core/number.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

template <class T, Backend B>
class TuckerBasis;

/// Numbers of one step of an optimizer. They are used in the type T of its moments, and their ranges
/// are T's: float's for layers of 16 bits.
struct StepOptions {
  /// Learning rate, 0 or positive, and finite in T; Adam: so that learning_rate / (1 - beta1) is.
  double learning_rate = 1e-3;
  /// The gradient is multiplied by it first. Finite in T, and so are its products with the
  /// gradient's entries; 0, or at least T's smallest normal number in magnitude.
  double grad_scale = 1;
};

/// What a step did.
struct StepReport {
  index_t updated = 0;      ///< entries of D
  index_t state = 0;        ///< entries of the state after the step
  index_t evicted = 0;      ///< entries forgotten to make room
  bool went_dense = false;  ///< the state became dense in this step
};

/// What becomes of the moments when the basis changes.
enum class MomentsPolicy {
  reset,      ///< the state is emptied; the step count starts anew
  transport,  ///< the optimizer carries it over, see its `rebase`
};

/// What a rebase did. Energy is the sum of squares of the first moments.
struct RebaseReport {
  /// Energy of the old state.
  double energy_before = 0;
  double lost_to_basis = 0;     ///< part of it outside the new basis (0 for full sides)
  double lost_to_capacity = 0;  ///< part of it dropped to fit a compact state
  index_t entries = 0;          ///< entries of the state afterwards
};

/// An optimizer's state in host memory, whatever the optimizer: what checkpoint files hold
/// (io/state_file.hpp).
///
/// The arrays have one number an entry. The entries are those at the positions `index`, or, when
/// the state is not compact, all rows * cols in their order. The options are there so that
/// `restore` refuses a state that was made with others.
template <class T>
struct OptimizerState {
  /// One number for each entry of the state.
  struct Array {
    /// What the optimizer calls it, as "m".
    std::string name;
    /// One for each entry, in the order of the positions.
    std::vector<T> values;
    /// Whether all members are equal.
    friend bool operator==(const Array&, const Array&) = default;
  };

  std::string type;  ///< optimizer and version of its state, as "sparse_adam 1"
  /// Rows of the core.
  index_t rows = 0;
  /// Columns of the core.
  index_t cols = 0;
  index_t capacity = 0;  ///< option: entries of a compact state; 0: dense
  /// Steps taken.
  std::int64_t steps = 0;
  /// Whether the state holds some entries only, at the positions `index`.
  bool compact = false;
  std::vector<stored_index_t> index;                       ///< strictly rising positions; empty when dense
  std::vector<Array> arrays;                               ///< as m and v
  bool counted = false;                                    ///< whether each entry counts its own steps,
  std::vector<std::int32_t> count;                         ///< here
  std::vector<std::pair<std::string, double>> numbers;     ///< options that are numbers, by name
  std::vector<std::pair<std::string, std::string>> texts;  ///< options that are words, by name

  /// The array, number or text of this name. Throw ValueError when there is none.
  std::vector<T>& array(std::string_view name) & {
    for (Array& a : arrays)
      if (a.name == name) return a.values;
    missing("array", name);
  }
  /// The array of this name, to read. Throws ValueError when there is none.
  const std::vector<T>& array(std::string_view name) const& {
    return const_cast<OptimizerState*>(this)->array(name);
  }
  /// The array of this name, moved out. Throws ValueError when there is none.
  std::vector<T> array(std::string_view name) && { return std::move(array(name)); }
  /// The number of this name, to change. Throws ValueError when there is none.
  double& number(std::string_view name) { return option(numbers, "number", name); }
  /// The number of this name, to read. Throws ValueError when there is none.
  const double& number(std::string_view name) const {
    return const_cast<OptimizerState*>(this)->number(name);
  }
  /// The text of this name, to change. Throws ValueError when there is none.
  std::string& text(std::string_view name) { return option(texts, "text", name); }
  /// The text of this name, to read. Throws ValueError when there is none.
  const std::string& text(std::string_view name) const {
    return const_cast<OptimizerState*>(this)->text(name);
  }

  /// Whether all members are equal.
  friend bool operator==(const OptimizerState&, const OptimizerState&) = default;

 private:
  template <class X>
  static X& option(std::vector<std::pair<std::string, X>>& options, const char* what, std::string_view name) {
    for (auto& [key, value] : options)
      if (key == name) return value;
    missing(what, name);
  }
  [[noreturn]] static void missing(const char* what, std::string_view name) {
    throw ValueError("the saved state has no " + std::string(what) + " '" + std::string(name) + "'");
  }
};

/// Concept of an optimizer of one core [rows, cols]: it turns a sparse gradient S into an update D,
/// with W <- W + V D U^T to follow. SparseAdam is one, SparseSgd (extras/sparse_sgd.hpp) another; a
/// group takes any.
///
/// | member | meaning |
/// |---|---|
/// | `Options` | its options; comparable by == |
/// | `O(ctx, rows, cols, options)` | an empty state; takes the state's memory |
/// | `rows()`, `cols()`, `bytes()`, `steps()` | extents, memory of the state, steps taken |
/// | `step(ctx, S, StepOptions, D)` | one step; D gets the update, -lr included. Throws before anything but D has changed |
/// | `reset(ctx)` | empties the state; steps from 0 |
/// | `rebase(ctx, from, to, MomentsPolicy, options)` | carries the state over to another basis, whose extents and capacity may differ; strong exception guarantee |
/// | `state(ctx)`, `restore(ctx, OptimizerState)` | a copy in host memory; takes one over or throws ValueError, with nothing changed |
///
/// Optional, with what their absence means (the functions of namespace core_optimizer call the one
/// or do the other):
///
/// | member | absent |
/// |---|---|
/// | `update_capacity(k)`: entries that D is made for when S has at most k | k |
/// | `require_numbers(StepOptions)`: throws ValueError for numbers that `step` would refuse | their ranges in T |
/// | static `largest_gradient()`: the largest magnitude of a scaled entry that leaves T nowhere | T's largest number |
/// | `reserve(ctx, k)`: scratch memory, so that no later step allocates | nothing |
/// | `check(ctx, S)`: throws what `step` would throw for this S | S must have the core's extents |
/// | `make_room(ctx, S)`: takes the memory that `step` would take for this S; true when the state became dense | nothing |
/// | `use_remainder(ctx, GradientRemainder)`: changes W further, by what lies outside of the basis (group_member.hpp) | nothing |
///
/// Whoever steps many cores calls `check` for all, then `make_room` for all, then `step`: so none
/// has moved when one refuses.
template <class O, class T, class B>
concept CoreOptimizer = Backend<B> && std::movable<O> && std::equality_comparable<typename O::Options> &&
    std::constructible_from<O, typename B::Context&, index_t, index_t, const typename O::Options&> &&
    requires(O& o, const O& c, typename B::Context& ctx, const SparseGradient<T, B>& s,
             SparseGradient<T, B>& d, const typename O::Options& options, const StepOptions& step,
             const TuckerBasis<T, B>& basis, const OptimizerState<T>& state) {
  { c.rows() } -> std::same_as<index_t>;
  { c.cols() } -> std::same_as<index_t>;
  { c.bytes() } -> std::same_as<index_t>;
  { c.steps() } -> std::same_as<std::int64_t>;
  { o.step(ctx, s, step, d) } -> std::same_as<StepReport>;
  o.reset(ctx);
  { o.rebase(ctx, basis, basis, MomentsPolicy::reset, options) } -> std::same_as<RebaseReport>;
  { c.state(ctx) } -> std::same_as<OptimizerState<T>>;
  o.restore(ctx, state);
};

/// Concept of a CoreOptimizer whose steps in a dense state are Adam's, so that a BatchedBackend
/// takes those of many cores at once: Backend::adam_batched on the tasks that `take_step` hands
/// out.
///
/// | member | meaning |
/// |---|---|
/// | `steps_in_place(S)` | whether a step with S is one update of S's entries in a dense state |
/// | `coefficients(StepOptions)` | the numbers of the next step |
/// | `take_step(ctx, S, d)` | counts a step and leaves its work to the caller; the update goes to d [rows, cols] |
/// | `set_steps(n)` | sets the count of steps, for a caller that counted them elsewhere |
template <class O, class T, class B>
concept BatchedOptimizer = CoreOptimizer<O, T, B> &&
    requires(O& o, const O& c, typename B::Context& ctx, const SparseGradient<T, B>& s,
             const StepOptions& step, T* d) {
  { c.steps_in_place(s) } -> std::same_as<bool>;
  { c.coefficients(step) } -> std::same_as<AdamCoefficients>;
  { o.take_step(ctx, s, d) } -> std::same_as<AdamTask<T>>;
  o.set_steps(std::int64_t{0});
};

/// The optional members of a CoreOptimizer, or what their absence means.
namespace core_optimizer {

/// Entries that D is made for when S has at most k.
template <class O>
index_t update_capacity(const O& o, index_t k) {
  if constexpr (requires { o.update_capacity(k); }) {
    return o.update_capacity(k);
  } else {
    return k;
  }
}

/// Throws ValueError unless the numbers of a step are in range in T (StepOptions).
template <class T>
void require_numbers(const StepOptions& step) {
  constexpr T most = (std::numeric_limits<T>::max)();
  if (!finite_in<T>(step.learning_rate) || step.learning_rate < 0) {
    throw ValueError("learning_rate is " + number_text(step.learning_rate) +
                     ", expected 0 <= learning_rate <= " + number_text(most));
  }
  if (!normal_in<T>(step.grad_scale)) {
    throw ValueError("grad_scale is " + number_text(step.grad_scale) + ", expected 0, or a magnitude from " +
                     number_text((std::numeric_limits<T>::min)()) + " to " + number_text(most));
  }
}
/// Throws ValueError for numbers that a step of this optimizer would refuse.
template <class T, class O>
void require_numbers(const O& o, const StepOptions& step) {
  if constexpr (requires { o.require_numbers(step); }) {
    o.require_numbers(step);
  } else {
    require_numbers<T>(step);
  }
}

/// The largest |grad_scale * g| of which nothing that the optimizer makes of it leaves T.
template <class T, class O>
T largest_gradient() {
  if constexpr (requires { O::largest_gradient(); }) {
    return O::largest_gradient();
  } else {
    return (std::numeric_limits<T>::max)();
  }
}

/// Number of the first entry of S that is beyond +-largest when it is multiplied by `scale` in T, or
/// -1; also -1 where S holds NaN or Inf itself. Looks at the entries only where that may be.
template <class T, Backend B>
index_t first_beyond(typename B::Context& ctx, const SparseGradient<T, B>& s, double scale, T largest) {
  constexpr T most = (std::numeric_limits<T>::max)();
  const double factor = std::abs(scale);
  if (s.count() == 0 || (largest == most && factor <= 1)) return -1;
  const MatrixView<const T> values(s.values(), 1, s.count());
  const double norm = std::sqrt(B::template squared_norm<T>(ctx, values));
  if (norm * factor <= static_cast<double>(largest)) return -1;
  if (B::template first_nonfinite<T>(ctx, values) >= 0) return -1;
  auto frame = ctx.frame();
  const MatrixView<T> scaled = frame.template matrix<T>(1, s.count());
  B::template copy<T>(ctx, values, scaled);
  B::template scale<T>(ctx, static_cast<T>(scale), scaled);
  if (largest < most) B::template scale<T>(ctx, most / largest, scaled);
  return B::template first_nonfinite<T>(ctx, scaled);
}
/// Throws NonFiniteError where first_beyond finds an entry.
template <class T, Backend B>
void require_scaled(typename B::Context& ctx, const SparseGradient<T, B>& s, const StepOptions& step,
                    T largest = (std::numeric_limits<T>::max)()) {
  const index_t at = first_beyond<T, B>(ctx, s, step.grad_scale, largest);
  if (at < 0) return;
  T value{};
  B::template download<T>(ctx, s.values() + at, &value, 1);
  throw NonFiniteError("entry " + std::to_string(at) + " of the gradient is " + number_text(value) +
                       ", times grad_scale " + number_text(step.grad_scale) + " beyond " +
                       number_text(largest) + " in magnitude, the largest that the optimizer takes");
}

/// Reserves scratch memory, so that no later step with at most k entries allocates.
template <class O, class Context>
void reserve(Context& ctx, O& o, index_t k) {
  if constexpr (requires { o.reserve(ctx, k); }) o.reserve(ctx, k);
}

/// Throws what a step with S would throw.
template <class O, class T, Backend B>
void check(typename B::Context& ctx, const O& o, const SparseGradient<T, B>& s) {
  if constexpr (requires { o.check(ctx, s); }) {
    o.check(ctx, s);
  } else {
    require_shape("S", s.rows(), s.cols(), o.rows(), o.cols(), "rows x cols of the optimizer's core");
  }
}

/// Takes the memory that a step with S would take.
template <class O, class T, Backend B>
bool make_room(typename B::Context& ctx, O& o, const SparseGradient<T, B>& s) {
  if constexpr (requires {
                  { o.make_room(ctx, s) } -> std::convertible_to<bool>;
                }) {
    return o.make_room(ctx, s);
  } else {
    if constexpr (requires { o.make_room(ctx, s); }) o.make_room(ctx, s);
    return false;
  }
}

/// Throws ShapeError or ValueError unless D has the extents [rows, cols] and room for `entries`,
/// and the numbers of the step are in range. For the `step` of an optimizer.
template <class T, Backend B>
void require_step(const SparseGradient<T, B>& d, index_t rows, index_t cols, index_t entries,
                  const StepOptions& step) {
  require_shape("D", d.rows(), d.cols(), rows, cols, "rows x cols of the optimizer's core");
  if (d.capacity() < entries) {
    throw ValueError("D has room for " + std::to_string(d.capacity()) + " entries, expected at least " +
                     std::to_string(entries));
  }
  require_numbers<T>(step);
}

/// Throws ValueError when D is S itself.
template <class T, Backend B>
void require_other(const SparseGradient<T, B>& d, const SparseGradient<T, B>& s) {
  if (&d == &s) throw ValueError("D is S itself, expected another object");
}

/// Throws ValueError when D cannot take the support of S: it was made for all entries and S has
/// fewer.
template <class T, Backend B>
void require_support(const SparseGradient<T, B>& d, const SparseGradient<T, B>& s) {
  if (!d.has_positions() && s.count() > 0 && s.count() < s.size()) {
    throw ValueError("D was made for all entries of the core, expected room for the positions of " +
                     std::to_string(s.count()) + "; call its reserve_positions first");
  }
}

/// Throws ShapeError unless `from` is the basis of a core [rows, cols] and `to` one of a weight of
/// the same extents.
template <class T, Backend B>
void require_bases(const TuckerBasis<T, B>& from, const TuckerBasis<T, B>& to, index_t rows, index_t cols) {
  require_shape("the old basis's core", from.rows(), from.cols(), rows, cols,
                "rows x cols of the optimizer's core");
  require_shape("the new basis's gradient", to.out_extent(), to.in_extent(), from.out_extent(),
                from.in_extent(), "out x in of the old basis");
}

/// Throws ValueError, naming the option, when a saved state was made with another value of it.
inline void require_option(const std::string& name, const std::string& found, const std::string& expected) {
  if (found != expected) {
    throw ValueError("the saved state was made with " + name + " " + found + ", expected " + expected);
  }
}
/// The same check of an integer.
inline void require_option(const std::string& name, index_t found, index_t expected) {
  require_option(name, std::to_string(found), std::to_string(expected));
}
/// The same check of a number.
inline void require_option(const std::string& name, double found, double expected) {
  require_option(name, number_text(found), number_text(expected));
}

/// Throws ValueError unless the state is of this type and for a core of these extents.
template <class T>
void require_state(const OptimizerState<T>& s, std::string_view type, index_t rows, index_t cols) {
  if (s.type != type) {
    throw ValueError("the saved state is a '" + s.type + "', expected a '" + std::string(type) + "'");
  }
  if (s.rows != rows || s.cols != cols) {
    throw ValueError("the saved state is for a core of " + shape_text(s.rows, s.cols) + ", expected " +
                     shape_text(rows, cols));
  }
}

}  // namespace core_optimizer
}  // namespace sparsegrad::SPARSEGRAD_ABI
