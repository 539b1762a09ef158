// Selector: what chooses the entries of a core gradient; the concept, and a selector of any type
// behind one interface.
#pragma once

#include <algorithm>
#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/float_bits.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What a selection did.
struct SelectReport {
  index_t requested = 0;  ///< entries asked for
  /// Entries selected.
  index_t kept = 0;
  bool clamped = false;  ///< more were asked for than the core has
  bool skipped = false;  ///< NaN or Inf under NonFinite::skip: no gradient, leave the step out
};

/// State of a selector in host memory: what files hold. Strictly rising positions of core entries,
/// and finite numbers; either may be empty.
template <class T>
struct SelectorState {
  /// Strictly rising flat positions of core entries.
  std::vector<stored_index_t> positions;
  /// Finite numbers.
  std::vector<T> values;

  /// Whether there is no state.
  bool empty() const { return positions.empty() && values.empty(); }
};

/// A callable `(ctx, core, s)`: reads the core gradient G~ [r, c], contiguous, and fills `s` [r,
/// c], whose capacity is how many entries there may be. It returns nothing, or a SelectReport.
/// TopK, FixedSupport and ErrorFeedback are such.
///
///     group.use_selector([](auto& ctx, auto core, auto& s) { TopK{64}(ctx, core, s); });
///
/// It finds `s` empty, with zeros in its memory: nothing of the step before is left. What it has
/// written is looked at: positions must rise strictly and lie in the core, which costs a pass over
/// them (and, on a device, copies them to the host). A selector whose positions are certain spares
/// that by a member `static constexpr bool rising_positions = true`; `s` is then empty alone.
///
/// A selector with a state has members of these names, each optional:
///
///     committed(ctx, core, s)         the step with s was taken
///     basis_changed(ctx, rows, cols)  the core has another basis, and these extents
///     state(ctx), restore(ctx, state) SelectorState<T>, to a file and back
///     check_state(rows, cols, state)  throws ValueError where restore would, for a core of these extents,
///                                     with room before state: also where more entries would be kept
///     bytes()                         memory held
///     entries()                       how many it keeps in every step: a layer that keeps fewer refuses it
///
/// One whose positions do not depend on the core says so by `static constexpr bool given_positions =
/// true`: processes that train together then sum the values alone (SparseGradGroup::use_reduce).
///
/// A selection alone must change no state: the step may be skipped, or refused.
template <class S, class T, class B>
concept Selector = Backend<B> &&
    requires(S& select, typename B::Context& ctx, MatrixView<const T> core, SparseGradient<T, B>& s) {
  select(ctx, core, s);
};

namespace detail {

/// Throws ValueError, leaving `s` empty, unless its positions rise strictly and lie in the matrix.
template <class T, Backend B>
void require_positions(typename B::Context& ctx, SparseGradient<T, B>& s, const char* who) {
  if (s.dense()) return;
  constexpr index_t most = 4096;
  stored_index_t part[most];
  index_t previous = -1;
  for (index_t first = 0; first < s.count(); first += most) {
    const index_t n = (std::min)(most, s.count() - first);
    B::template download<stored_index_t>(ctx, s.indices() + first, part, n);
    for (index_t e = 0; e < n; ++e) {
      if (part[e] > previous && part[e] < s.size()) {
        previous = part[e];
        continue;
      }
      s.clear();
      throw ValueError(std::string(who) + " wrote position " + std::to_string(part[e]) + " at entry " +
                       std::to_string(first + e) + ", expected strictly rising positions in [0, " +
                       std::to_string(s.size()) + ")");
    }
  }
}

/// Nothing of the step before is left in `s`.
template <class T, Backend B>
void erase(typename B::Context& ctx, SparseGradient<T, B>& s) {
  s.clear();
  if (s.capacity() == 0) return;
  B::template zero<T>(ctx, s.values(), s.capacity());
  if (s.indices() != nullptr) B::template zero<stored_index_t>(ctx, s.indices(), s.capacity());
}

/// Applies the policy for NaN and Inf to the kept values. Under TopK they rank above every finite
/// number, so that a core that holds one shows it among its k largest, and need not be read again.
template <class T, Backend B>
void check_finite(typename B::Context& ctx, SparseGradient<T, B>& s, NonFinite policy, SelectReport& report) {
  if (policy == NonFinite::propagate || s.count() == 0) return;
  const index_t bad = B::template first_nonfinite<T>(ctx, MatrixView<T>(s.values(), 1, s.count()));
  if (bad < 0) return;
  if (policy == NonFinite::skip) {
    s.clear();
    report.kept = 0;
    report.skipped = true;
    return;
  }
  index_t position = bad;
  if (!s.dense()) {
    stored_index_t index = 0;
    B::template download<stored_index_t>(ctx, s.indices() + bad, &index, 1);
    position = index;
  }
  T value{};
  B::template download<T>(ctx, s.values() + bad, &value, 1);
  s.clear();
  throw NonFiniteError("the core gradient of " + shape_text(s.rows(), s.cols()) + " holds " +
                       (is_nan(value) ? "NaN" : "Inf") + " at row " + std::to_string(position / s.cols()) +
                       ", column " + std::to_string(position % s.cols()) + "; expected finite numbers");
}

/// The core as selectors read it: of the shape of s, contiguous. Throws ShapeError.
template <class T, Backend B>
void require_core(ConstMatrixView<T> core, const SparseGradient<T, B>& s) {
  require_shape("core", core.rows, core.cols, s.rows(), s.cols(), "rows x cols of the sparse gradient");
  if (!core.contiguous()) {
    throw ShapeError("the core's row stride is " + std::to_string(core.stride) +
                     ", expected a contiguous core of " + std::to_string(core.cols) + " columns");
  }
}

}  // namespace detail

/// Fills `s`, empty at first, by the selector and applies the policy for NaN and Inf to what it
/// kept. Throws what the selector throws; ValueError for positions that are none (see Selector);
/// NonFiniteError under NonFinite::raise; `s` is then empty.
template <class T, Backend B, class S>
requires Selector<std::remove_reference_t<S>, T, B> SelectReport
select_entries(typename B::Context& ctx, S&& selector, ConstMatrixView<T> core, SparseGradient<T, B>& s,
               NonFinite policy = NonFinite::raise) {
  constexpr bool certain = requires {
    requires std::remove_reference_t<S>::rising_positions;
  };
  SelectReport report;
  certain ? s.clear() : detail::erase<T, B>(ctx, s);
  try {
    if constexpr (std::is_convertible_v<decltype(selector(ctx, core, s)), SelectReport>) {
      report = selector(ctx, core, s);
    } else {
      selector(ctx, core, s);
      report.requested = s.count();
    }
  } catch (...) {
    s.clear();
    throw;
  }
  report.kept = s.count();
  if constexpr (!certain) detail::require_positions<T, B>(ctx, s, "the selector");
  detail::check_finite<T, B>(ctx, s, policy, report);
  return report;
}

/// A selector of any type, with the hooks that it has; those that it lacks do nothing. Empty: no
/// selector.
template <class T, Backend B>
class AnySelector {
 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The sparse gradients that it takes.
  using Gradient = SparseGradient<T, B>;
  /// The state in host memory.
  using State = SelectorState<T>;

  AnySelector() = default;
  /// Owns a copy (or what was moved in).
  template <class S>
  requires(!std::same_as<S, AnySelector> && Selector<S, T, B>) explicit AnySelector(S selector)
      : model_(std::make_shared<Model<S>>(std::make_shared<S>(std::move(selector)))) {}
  /// Shares the caller's object.
  template <class S>
  requires Selector<S, T, B>
  explicit AnySelector(std::shared_ptr<S> selector)
      : model_(std::make_shared<Model<S>>(selector)), identity_(selector.get()) {}

  /// Whether there is a selector.
  explicit operator bool() const { return model_ != nullptr; }
  /// Address of the caller's object where it is shared, else null.
  const void* identity() const { return identity_; }
  /// Whether the selector has a state of one layer's own.
  bool keeps_state() const { return model_ != nullptr && (model_->saves() || model_->wants_commit()); }
  /// Whether its positions do not depend on the core.
  bool given_positions() const { return model_ != nullptr && model_->given_positions(); }
  /// Whether that state goes to files.
  bool saves() const { return model_ != nullptr && model_->saves(); }

  /// Fills `s`; see select_entries.
  SelectReport select(Context& ctx, MatrixView<const T> core, Gradient& s, NonFinite policy) const {
    return model_->select(ctx, core, s, policy);
  }
  /// Whether the selector has a member `committed`.
  bool wants_commit() const { return model_ != nullptr && model_->wants_commit(); }
  /// Tells the selector that the step with `s` was taken.
  void committed(Context& ctx, MatrixView<const T> core, const Gradient& s) const {
    model_->committed(ctx, core, s);
  }
  /// Tells the selector that the core has another basis, and these extents.
  void basis_changed(Context& ctx, index_t rows, index_t cols) const {
    if (model_ != nullptr) model_->basis_changed(ctx, rows, cols);
  }
  /// The selector's state; empty when it has none.
  State state(Context& ctx) const { return model_ == nullptr ? State() : model_->state(ctx); }
  /// Restores the selector's state.
  void restore(Context& ctx, const State& state) const { model_->restore(ctx, state); }
  /// Throws ValueError where `restore` would, for a core of these extents and a sparse gradient with
  /// room for so many entries.
  void check_state(index_t rows, index_t cols, index_t room, const State& state) const {
    model_->check_state(rows, cols, room, state);
  }
  /// Bytes of backend memory held.
  index_t bytes() const { return model_ == nullptr ? 0 : model_->bytes(); }
  /// Entries that the selector keeps in every step, where it says so; else 0.
  index_t entries() const { return model_ == nullptr ? 0 : model_->entries(); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual SelectReport select(Context&, MatrixView<const T>, Gradient&, NonFinite) = 0;
    virtual bool given_positions() const = 0;
    virtual bool saves() const = 0;
    virtual bool wants_commit() const = 0;
    virtual void committed(Context&, MatrixView<const T>, const Gradient&) = 0;
    virtual void basis_changed(Context&, index_t, index_t) = 0;
    virtual State state(Context&) = 0;
    virtual void restore(Context&, const State&) = 0;
    virtual void check_state(index_t, index_t, index_t, const State&) = 0;
    virtual index_t bytes() const = 0;
    virtual index_t entries() const = 0;
  };

  template <class S>
  struct Model final : Interface {
    static constexpr bool commits =
        requires(S & s, Context& ctx, MatrixView<const T> core, const Gradient& g) {
      s.committed(ctx, core, g);
    };
    static constexpr bool has_state = requires(S & s, Context& ctx, const State& saved) {
      { s.state(ctx) } -> std::convertible_to<State>;
      s.restore(ctx, saved);
    };

    explicit Model(std::shared_ptr<S> s) : selector(std::move(s)) {}

    SelectReport select(Context& ctx, MatrixView<const T> core, Gradient& s, NonFinite policy) override {
      return select_entries<T, B>(ctx, *selector, core, s, policy);
    }
    bool given_positions() const override {
      return requires {
        requires S::given_positions;
      };
    }
    bool saves() const override { return has_state; }
    bool wants_commit() const override { return commits; }
    void committed(Context& ctx, MatrixView<const T> core, const Gradient& s) override {
      if constexpr (commits) selector->committed(ctx, core, s);
    }
    void basis_changed(Context& ctx, index_t rows, index_t cols) override {
      if constexpr (requires { selector->basis_changed(ctx, rows, cols); })
        selector->basis_changed(ctx, rows, cols);
    }
    State state(Context& ctx) override {
      if constexpr (has_state) {
        return selector->state(ctx);
      } else {
        return {};
      }
    }
    void restore(Context& ctx, const State& saved) override {
      if constexpr (has_state) selector->restore(ctx, saved);
    }
    void check_state(index_t rows, index_t cols, index_t room, const State& saved) override {
      if constexpr (requires { selector->check_state(rows, cols, room, saved); }) {
        selector->check_state(rows, cols, room, saved);
      } else if constexpr (requires { selector->check_state(rows, cols, saved); }) {
        selector->check_state(rows, cols, saved);
      }
    }
    index_t bytes() const override {
      if constexpr (requires { selector->bytes(); }) {
        return selector->bytes();
      } else {
        return 0;
      }
    }

    index_t entries() const override {
      if constexpr (requires { selector->entries(); }) {
        return selector->entries();
      } else {
        return 0;
      }
    }

    std::shared_ptr<S> selector;
  };

  std::shared_ptr<Interface> model_;
  const void* identity_ = nullptr;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
