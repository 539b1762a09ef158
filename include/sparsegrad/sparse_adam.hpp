// SparseAdam: Adam on the entries of a sparse gradient, with a state that holds only the entries met so far.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/full_precision.hpp"
#include "default_backend.hpp"
#include "sparse_gradient.hpp"

namespace sparsegrad {

template <class T, Backend B>
class TuckerBasis;

/// What Adam means for entries that are not in every gradient. In all of them
///     m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2      d = -lr m^ / (sqrt(v^) + eps)
///     m^ = m / (1 - b1^t)         v^ = v / (1 - b2^t)
/// (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015).
enum class AdamSemantics {
  /// torch.optim.SparseAdam: only the entries of S move, t is the global step, and eps stands beside the
  /// uncorrected sqrt(v): d = -lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps).
  torch,
  /// Only the entries of S move; t is the number of gradients that the entry itself has met.
  per_entry_step,
  /// The moments of the whole core move in every step: an entry that is not in S has g = 0. D has all entries
  /// of the state. With k = all this is torch.optim.Adam, and torch.optim.AdamW with the layer's decay. In a
  /// compact state, entries never met (or evicted) have moments 0.
  dense_core,
};

/// What a compact state does when a gradient's new entries exceed its capacity.
enum class Overflow {
  /// Becomes dense, for good. The only step that allocates.
  go_dense,
  /// Forgets as many entries as needed: those with the smallest |m|, of equals the highest position, never
  /// one of S. An entry met again later starts at moments (and a count) of 0. Under `torch`
  /// its bias correction is that of the global step, so that its first update is larger than a fresh Adam's,
  /// by up to (1 - b1) / sqrt(1 - b2), 3.2 with the usual betas (as for every entry first met late).
  evict_smallest,
  /// CapacityError; nothing has changed.
  error,
};

/// What becomes of the moments when the basis changes.
enum class MomentsPolicy {
  reset,      ///< the state is emptied; the step count starts anew
  transport,  ///< see SparseAdam::rebase
};

struct SparseAdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  /// At least the smallest normal number of the moments' type: an entry without any gradient gets d = 0, not 0 / 0.
  double eps = 1e-8;
  AdamSemantics semantics = AdamSemantics::torch;
  /// Entries of a compact state; 0: dense. A capacity whose compact form is no smaller than the dense one is
  /// dense too.
  index_t capacity = 0;
  Overflow overflow = Overflow::go_dense;

  friend bool operator==(const SparseAdamOptions&, const SparseAdamOptions&) = default;
};

/// "torch", "per_entry_step", "dense_core"
inline const char* to_string(AdamSemantics semantics) {
  switch (semantics) {
    case AdamSemantics::torch:
      return "torch";
    case AdamSemantics::per_entry_step:
      return "per_entry_step";
    case AdamSemantics::dense_core:
      return "dense_core";
  }
  return "?";
}

/// "go_dense", "evict_smallest", "error"
inline const char* to_string(Overflow overflow) {
  switch (overflow) {
    case Overflow::go_dense:
      return "go_dense";
    case Overflow::evict_smallest:
      return "evict_smallest";
    case Overflow::error:
      return "error";
  }
  return "?";
}

struct StepOptions {
  double learning_rate = 1e-3;
  double grad_scale = 1;  ///< the gradient is multiplied by it first
};

/// What a step did.
struct StepReport {
  index_t updated = 0;      ///< entries of D
  index_t state = 0;        ///< entries of the state after the step
  index_t evicted = 0;      ///< entries forgotten to make room
  bool went_dense = false;  ///< the state became dense in this step
};

/// What a rebase did. Energy is the sum of squares of the first moments.
struct RebaseReport {
  double energy_before = 0;
  double lost_to_basis = 0;     ///< share of it outside the new basis (0 for full sides)
  double lost_to_capacity = 0;  ///< share of it dropped to fit a compact state
  index_t entries = 0;          ///< entries of the state afterwards
};

/// The whole state of a SparseAdam in host memory: what files hold.
template <class T>
struct SparseAdamState {
  index_t rows = 0;
  index_t cols = 0;
  SparseAdamOptions options;
  std::int64_t steps = 0;
  bool compact = false;
  std::vector<stored_index_t> index;  ///< strictly rising positions; empty when dense
  std::vector<T> m;
  std::vector<T> v;
  std::vector<std::int32_t> count;  ///< per_entry_step only
};

/// Optimizer of one core [rows, cols].
///
/// The state is compact (sorted positions, m, v, and counts under per_entry_step, with room for `capacity`
/// entries) or dense, whichever takes fewer bytes. Its memory is taken in the constructor, temporary memory
/// from the context. Decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
/// 2019) is no part of it: it acts on the weight, where the layer applies it: W <- (1 - lr decay) W + V D
/// U^T.
///
///     core 1x6, capacity 3, S = {1, 4}, then {0, 4}: held positions {1, 4}, then {0, 1, 4}
template <class T, Backend B = DefaultBackend>
class SparseAdam {
 public:
  using Context = typename B::Context;
  using Gradient = SparseGradient<T, B>;

  /// Throws ValueError unless 0 <= beta < 1, eps is at least T's smallest normal number, capacity >= 0 and
  /// rows * cols < 2^31.
  SparseAdam(Context& ctx, index_t rows, index_t cols, const SparseAdamOptions& options = {})
      : options_(options) {
    require_options(options);
    require_extents(rows, cols);
    shape(ctx, rows, cols);
  }

  /// Whether the state of such an optimizer begins compact: when that takes fewer bytes.
  static bool starts_compact(index_t rows, index_t cols, const SparseAdamOptions& options) {
    const bool counts = options.semantics == AdamSemantics::per_entry_step;
    const index_t entry = static_cast<index_t>(2 * sizeof(T) + (counts ? sizeof(std::int32_t) : 0));
    const index_t place = static_cast<index_t>(sizeof(stored_index_t));
    return options.capacity > 0 && options.capacity < rows * cols &&
           options.capacity * (entry + place) < rows * cols * entry;
  }

  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  const SparseAdamOptions& options() const { return options_; }
  bool compact() const { return compact_; }
  /// Entries with moments: held ones when compact, rows * cols when dense.
  index_t size() const { return compact_ ? held_count_ : rows_ * cols_; }
  /// Entries that the state has room for.
  index_t capacity() const { return compact_ ? options_.capacity : rows_ * cols_; }
  index_t bytes() const { return index_.bytes() + m_.bytes() + v_.bytes() + count_.bytes(); }
  /// Steps taken: t of the last step.
  std::int64_t steps() const { return steps_; }

  /// Entries that D is to be made for when S has at most k: k, but under dense_core all that the state may
  /// hold.
  index_t update_capacity(index_t k) const {
    if (options_.semantics != AdamSemantics::dense_core) return k;
    const bool stays_compact = compact_ && options_.overflow != Overflow::go_dense;
    return stays_compact ? options_.capacity : rows_ * cols_;
  }

  /// After this no step with at most k entries takes memory from the system (but for Overflow::go_dense,
  /// once).
  void reserve(Context& ctx, index_t k) const {
    const auto entries = [](index_t n, std::size_t bytes) { return n * static_cast<index_t>(bytes); };
    index_t bytes = entries(k, 2 * sizeof(stored_index_t)) + index_t{4096};
    if (options_.semantics == AdamSemantics::dense_core) bytes += entries(capacity(), 2 * sizeof(T));
    if (compact_ && options_.overflow == Overflow::evict_smallest) {
      bytes += entries(capacity(), 2 * sizeof(T) + 2 * sizeof(stored_index_t)) +
               B::template scratch_bound<T>(ctx, capacity());
    }
    ctx.scratch().reserve(bytes);
  }

  /// Throws what `step` would throw for this gradient, and changes nothing: ShapeError; CapacityError when S
  /// alone exceeds the capacity, or under Overflow::error; NonFiniteError when entries must be evicted by
  /// moments that hold NaN or Inf.
  void check(Context& ctx, const Gradient& s) const {
    auto frame = ctx.frame();
    find_checked(ctx, frame, s);
  }

  /// Makes room for S where `step` would go dense to have it (Overflow::go_dense), and changes no moment: a caller with
  /// many states so takes the memory of all before the first of them steps.
  void make_room(Context& ctx, const Gradient& s) {
    if (!compact_ || options_.overflow != Overflow::go_dense) return;
    if (held_count_ + s.count() <= options_.capacity) return;
    auto frame = ctx.frame();
    if (s.count() > options_.capacity || held_count_ + find(ctx, frame, s).fresh_count > options_.capacity) {
      make_dense(ctx);
    }
  }

  /// One step. D, another object than S, gets the update on S's support (dense_core: on all entries of the
  /// state, or on the whole core, the rest being 0, when D was made for that) and carries -lr. When it throws, nothing has changed but D. Throws what `check` throws;
  /// ValueError for a learning rate or scale that is not finite or when D.capacity() <
  /// update_capacity(S.count()).
  StepReport step(Context& ctx, const Gradient& s, const StepOptions& step_options, Gradient& d) {
    auto frame = ctx.frame();
    Slots slots = find_checked(ctx, frame, s);
    require_shape("D", d.rows(), d.cols(), rows_, cols_, "rows x cols of the optimizer's core");
    if (d.capacity() < update_capacity(s.count())) {
      throw ValueError("D has room for " + std::to_string(d.capacity()) + " entries, expected at least " +
                       std::to_string(update_capacity(s.count())));
    }
    if (!(step_options.learning_rate >= 0) || !std::isfinite(step_options.learning_rate)) {
      throw ValueError("learning_rate is " + std::to_string(step_options.learning_rate) +
                       ", expected a finite number >= 0");
    }
    if (!std::isfinite(step_options.grad_scale)) {
      throw ValueError("grad_scale is " + std::to_string(step_options.grad_scale) +
                       ", expected a finite number");
    }

    const bool whole_core = options_.semantics == AdamSemantics::dense_core;
    if (!whole_core && d.capacity() == d.size() && s.count() > 0 && s.count() < s.size()) {
      throw ValueError("D was made for all entries of the core, expected room for the positions of " +
                       std::to_string(s.count()));
    }

    StepReport report;
    if (compact_) {
      if (s.count() > options_.capacity) {
        make_dense(ctx);
        report.went_dense = true;
      } else {
        if (slots.slot == nullptr) slots = find(ctx, frame, s);
        const index_t excess = held_count_ + slots.fresh_count - options_.capacity;
        if (excess > 0 && options_.overflow == Overflow::go_dense) {
          make_dense(ctx);
          report.went_dense = true;
        } else if (excess > 0) {
          evict(ctx, s, excess);  // takes more scratch memory than what follows: that cannot run out
          report.evicted = excess;
          slots = find(ctx, frame, s, slots);
        }
      }
    }

    const AdamCoefficients c = coefficients(step_options);
    const index_t state = compact_ ? held_count_ + slots.fresh_count : rows_ * cols_;
    const bool whole = whole_core && !s.dense();
    T* gradient = whole ? frame.template take<T>(state) : nullptr;
    // A D made for all entries holds no part of them.
    const bool fill = whole && compact_ && d.capacity() == d.size();
    T* update = fill ? frame.template take<T>(state) : nullptr;

    // From here on nothing throws.
    if (compact_ && slots.fresh_count > 0) {
      B::template insert_entries<T>(ctx, s.indices(), slots.slot, slots.fresh, slots.fresh_count,
                                    index_.data(), held_count_, m_.data(), v_.data(), count_.data());
      held_count_ = state;
    }
    const stored_index_t* place = compact_ ? slots.slot : s.indices();
    if (whole) {
      B::template zero<T>(ctx, gradient, state);
      B::template scatter<T>(ctx, s.values(), place, s.count(), gradient);
      d.set_count(fill ? d.size() : state);
      if (!d.dense()) copy_n<stored_index_t>(ctx, index_.data(), d.indices(), state);
      if (!fill) update = d.values();
      B::template adam<T>(ctx, c, gradient, nullptr, state, m_.data(), v_.data(), nullptr, update);
      if (fill) {
        B::template zero<T>(ctx, d.values(), d.size());
        B::template scatter<T>(ctx, update, index_.data(), state, d.values());
      }
    } else {
      d.copy_support(ctx, s);
      B::template adam<T>(ctx, c, s.values(), place, s.count(), m_.data(), v_.data(), count_.data(),
                          d.values());
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
  bool steps_in_place(const Gradient& s) const {
    return !compact_ && (options_.semantics != AdamSemantics::dense_core || s.dense());
  }

  /// Counts a step and leaves its work to the caller, for Backend::adam_batched with `coefficients` from before:
  /// the update goes to the entries of D [rows, cols], dense, that are in S. Throws StateError unless
  /// steps_in_place(S), what `check` throws.
  AdamTask<T> take_step(Context& ctx, const Gradient& s, T* d) {
    check(ctx, s);
    if (!steps_in_place(s))
      throw StateError("take_step: the state is compact or moves more entries than S has; use step");
    ++steps_;
    return {s.values(), s.indices(), s.count(), m_.data(), v_.data(), has_counts() ? count_.data() : nullptr,
            d,          steps_,      nullptr};
  }

  /// Sets the count of steps, for a caller that counted them elsewhere. Throws ValueError when it is negative.
  void set_steps(std::int64_t steps) {
    if (steps < 0) throw ValueError("steps is " + std::to_string(steps) + ", expected >= 0");
    steps_ = steps;
  }

  /// Empties the state; the step count starts anew. A state that went dense stays dense.
  void reset(Context& ctx) {
    held_count_ = 0;
    steps_ = 0;
    if (m_.empty()) return;
    B::template zero<T>(ctx, m_.data(), m_.size());
    B::template zero<T>(ctx, v_.data(), v_.size());
    if (!count_.empty()) B::template zero<std::int32_t>(ctx, count_.data(), count_.size());
  }

  /// Carries the state over to a new basis: V -> V', U -> U'. With R = V'^T V [r', r] and Q = U'^T U [c', c]
  ///     m' = R m Q^T                     exact when the old directions lie in the new basis (full sides)
  ///     v' = (R o R) v (Q o Q)^T         o: by element; an approximation, exact for uncorrelated entries; v' >= 0
  /// Under per_entry_step both moments are first freed of their entries' own bias, and then given that of the
  /// largest count, which becomes every entry's. A compact state stays as large as it was: of m' the entries
  /// with the largest absolute values are kept. The step count stays. `reset` empties the state instead. The
  /// core may change its extents, and the state its `capacity` with them (left out: it stays; one that went dense stays
  /// dense). Throws ShapeError unless `from` belongs to this core and both bases to
  /// weights of the same extents. Allocates; when it throws, nothing has changed.
  RebaseReport rebase(Context& ctx, const TuckerBasis<T, B>& from, const TuckerBasis<T, B>& to,
                      MomentsPolicy policy, std::optional<index_t> capacity = {});

  /// Calls f(name, view) for every array of the state, in the order step, index (compact only), m, v, count
  /// (per_entry_step only): `view` is a std::span of const std::int64_t ("step", in host memory),
  /// stored_index_t, T, T and std::int32_t in the backend's memory. Equal states give equal bytes.
  template <class F>
  void visit_state(F&& f) const {
    const auto n = static_cast<std::size_t>(size());
    f(std::string_view("step"), std::span<const std::int64_t>(&steps_, 1));
    if (compact_) f(std::string_view("index"), std::span<const stored_index_t>(index_.data(), n));
    f(std::string_view("m"), std::span<const T>(m_.data(), n));
    f(std::string_view("v"), std::span<const T>(v_.data(), n));
    if (has_counts()) f(std::string_view("count"), std::span<const std::int32_t>(count_.data(), n));
  }

  /// A copy of the state in host memory.
  SparseAdamState<T> state(Context& ctx) const {
    SparseAdamState<T> s;
    s.rows = rows_;
    s.cols = cols_;
    s.options = options_;
    s.steps = steps_;
    s.compact = compact_;
    if (compact_) s.index = host<stored_index_t>(ctx, index_.data(), size());
    s.m = host<T>(ctx, m_.data(), size());
    s.v = host<T>(ctx, v_.data(), size());
    if (has_counts()) s.count = host<std::int32_t>(ctx, count_.data(), size());
    return s;
  }

  /// Takes a state over, bit by bit. Throws ValueError, saying what differs, unless it is for a core of these
  /// extents, was made with the same options, and is a valid state: rising positions in range, numbers as
  /// many as positions, v >= 0 or NaN, counts and steps >= 0. When it throws, nothing has changed.
  void restore(Context& ctx, const SparseAdamState<T>& s) {
    require_state(s);
    if (s.compact && !starts_compact(rows_, cols_, options_)) {
      throw ValueError("the saved state is compact, expected dense: with capacity " +
                       std::to_string(options_.capacity) + " that is the smaller form");
    }
    if (s.compact != compact_) {
      // A state that has gone dense, or the reverse: make the memory first.
      SparseAdam other(ctx, rows_, cols_, options_);
      if (other.compact_ && !s.compact) other.make_dense(ctx);
      *this = std::move(other);
    }
    reset(ctx);
    if (compact_) {
      held_count_ = static_cast<index_t>(s.index.size());
      upload_n<stored_index_t>(ctx, s.index.data(), index_.data(), held_count_);
    }
    upload_n<T>(ctx, s.m.data(), m_.data(), size());
    upload_n<T>(ctx, s.v.data(), v_.data(), size());
    if (has_counts()) upload_n<std::int32_t>(ctx, s.count.data(), count_.data(), size());
    steps_ = s.steps;
  }

 private:
  struct Slots {
    stored_index_t* slot = nullptr;   ///< place of each entry of S in the merged state
    stored_index_t* fresh = nullptr;  ///< entries of S that are new
    index_t fresh_count = 0;
  };

  bool has_counts() const { return options_.semantics == AdamSemantics::per_entry_step; }

  static void require_options(const SparseAdamOptions& o) {
    for (const auto& [name, beta] : {std::pair("beta1", o.beta1), std::pair("beta2", o.beta2)}) {
      if (!(beta >= 0 && beta < 1)) {
        throw ValueError(std::string(name) + " is " + std::to_string(beta) + ", expected 0 <= " + name +
                         " < 1");
      }
    }
    constexpr auto least = static_cast<double>(std::numeric_limits<T>::min());
    if (!(o.eps >= least && o.eps <= static_cast<double>(std::numeric_limits<T>::max()))) {
      char text[96];
      std::snprintf(text, sizeof text,
                    "eps is %.3g, expected a finite number >= %.3g, the smallest normal one", o.eps, least);
      throw ValueError(text);
    }
    if (o.capacity < 0)
      throw ValueError("capacity is " + std::to_string(o.capacity) + ", expected >= 0 (0: dense)");
  }
  static void require_extents(index_t rows, index_t cols) {
    const index_t limit = std::numeric_limits<stored_index_t>::max();
    if (rows < 0 || cols < 0 || (rows > 0 && cols > limit / rows)) {
      throw ValueError("an optimizer of a core of " + shape_text(rows, cols) +
                       " has positions beyond 2^31 - 1, which 32-bit indices cannot hold");
    }
  }

  /// Memory for a core of these extents, empty state.
  void shape(Context& ctx, index_t rows, index_t cols) {
    rows_ = rows;
    cols_ = cols;
    compact_ = starts_compact(rows, cols, options_);
    const index_t n = compact_ ? options_.capacity : rows * cols;
    index_.resize(ctx, compact_ ? n : 0);
    m_.resize(ctx, n);
    v_.resize(ctx, n);
    count_.resize(ctx, has_counts() ? n : 0);
    held_count_ = 0;
  }

  template <class Frame>
  Slots find(Context& ctx, Frame& frame, const Gradient& s, Slots slots = {}) const {
    if (slots.slot == nullptr) {
      slots.slot = frame.template take<stored_index_t>(s.count());
      slots.fresh = frame.template take<stored_index_t>(s.count());
    }
    slots.fresh_count =
        B::locate_entries(ctx, s.indices(), s.count(), index_.data(), held_count_, slots.slot, slots.fresh);
    return slots;
  }

  /// What `check` does, and the places of S where it had to look for them, else none.
  template <class Frame>
  Slots find_checked(Context& ctx, Frame& frame, const Gradient& s) const {
    require_shape("S", s.rows(), s.cols(), rows_, cols_, "rows x cols of the optimizer's core");
    if (!compact_ || options_.overflow == Overflow::go_dense) return {};
    const std::string policy = to_string(options_.overflow);
    if (s.count() > options_.capacity) {
      throw CapacityError("S has " + std::to_string(s.count()) +
                          " entries, expected at most the state's capacity " +
                          std::to_string(options_.capacity) + " (overflow policy " + policy + ")");
    }
    if (held_count_ + s.count() <= options_.capacity) return {};
    const Slots slots = find(ctx, frame, s);
    const index_t fresh = slots.fresh_count;
    if (held_count_ + fresh <= options_.capacity) return slots;
    if (options_.overflow == Overflow::error) {
      throw CapacityError("the state holds " + std::to_string(held_count_) + " entries and S brings " +
                          std::to_string(fresh) + " new ones, expected at most the capacity " +
                          std::to_string(options_.capacity) + " together (overflow policy " + policy + ")");
    }
    if (B::template first_nonfinite<T>(ctx, m_.matrix(1, held_count_)) >= 0) {
      throw NonFiniteError(
          "entries must be evicted by their moments, which hold NaN or Inf; expected finite numbers");
    }
    return slots;
  }

  void make_dense(Context& ctx) {
    const index_t n = rows_ * cols_;
    Buffer<T, B> m(ctx, n);
    Buffer<T, B> v(ctx, n);
    Buffer<std::int32_t, B> count(ctx, has_counts() ? n : 0);
    if (held_count_ > 0) {
      B::template scatter<T>(ctx, m_.data(), index_.data(), held_count_, m.data());
      B::template scatter<T>(ctx, v_.data(), index_.data(), held_count_, v.data());
      if (has_counts()) {
        B::template scatter<std::int32_t>(ctx, count_.data(), index_.data(), held_count_, count.data());
      }
    }
    m_ = std::move(m);
    v_ = std::move(v);
    count_ = std::move(count);
    index_.release();
    compact_ = false;
    held_count_ = 0;
  }

  /// Forgets `excess` entries that are not in S.
  void evict(Context& ctx, const Gradient& s, index_t excess) {
    auto frame = ctx.frame();
    const index_t n = held_count_;
    const index_t keep = n - excess;
    // Which held entries are not in S: those that are new to it.
    stored_index_t* place = frame.template take<stored_index_t>(n);
    stored_index_t* outside = frame.template take<stored_index_t>(n);
    T* rank = frame.template take<T>(n);
    T* moved = frame.template take<T>(n);
    const index_t candidates =
        B::locate_entries(ctx, index_.data(), n, s.indices(), s.count(), place, outside);
    // NaN ranks above every number and so keeps the entries of S; their moments are finite (see `check`).
    B::template zero<T>(ctx, rank, n);
    B::template scale<T>(ctx, std::numeric_limits<T>::quiet_NaN(), MatrixView<T>(rank, 1, n));
    B::template gather<T>(ctx, m_.data(), outside, candidates, moved);
    B::template scatter<T>(ctx, moved, outside, candidates, rank);
    stored_index_t* kept = place;
    B::template top_k<T>(ctx, rank, n, keep, kept, moved);

    stored_index_t* narrow = outside;
    pack<stored_index_t>(ctx, kept, keep, index_.data(), narrow);
    pack<T>(ctx, kept, keep, m_.data(), moved);
    pack<T>(ctx, kept, keep, v_.data(), moved);
    if (has_counts()) pack<std::int32_t>(ctx, kept, keep, count_.data(), narrow);
    held_count_ = keep;
  }
  /// x[e] = x[kept[e]]
  template <class X>
  static void pack(Context& ctx, const stored_index_t* kept, index_t keep, X* x, X* between) {
    B::template gather<X>(ctx, x, kept, keep, between);
    copy_n<X>(ctx, between, x, keep);
  }

  template <class X>
  static void copy_n(Context& ctx, const X* from, X* to, index_t n) {
    if (n > 0) B::template copy<X>(ctx, MatrixView<const X>(from, 1, n), MatrixView<X>(to, 1, n));
  }
  template <class X>
  static void upload_n(Context& ctx, const X* from, X* to, index_t n) {
    if (n > 0) B::template upload<X>(ctx, from, to, n);
  }
  template <class X>
  static std::vector<X> host(Context& ctx, const X* from, index_t n) {
    std::vector<X> to(static_cast<std::size_t>(n));
    if (n > 0) B::template download<X>(ctx, from, to.data(), n);
    return to;
  }

  void require_state(const SparseAdamState<T>& s) const;

  /// R = B'^T B [r', r] for the bases B [n, r] and B' [n, r'] of one side.
  template <class Side>
  static std::vector<T> rotation(Context& ctx, const Side& from, const Side& to);

  /// R A Q^T, A [r, c], in host memory.
  static std::vector<T> rotate(Context& ctx, std::span<const T> a, index_t rows, index_t cols,
                               std::span<const T> r, std::span<const T> q);

  SparseAdamOptions options_;
  index_t rows_ = 0;
  index_t cols_ = 0;
  bool compact_ = false;
  index_t held_count_ = 0;  ///< entries of a compact state
  std::int64_t steps_ = 0;
  Buffer<stored_index_t, B> index_;  ///< positions of a compact state, rising
  Buffer<T, B> m_;
  Buffer<T, B> v_;
  Buffer<std::int32_t, B> count_;
};

template <class T, Backend B>
RebaseReport SparseAdam<T, B>::rebase(Context& ctx, const TuckerBasis<T, B>& from,
                                      const TuckerBasis<T, B>& to, MomentsPolicy policy,
                                      std::optional<index_t> capacity) {
  require_shape("the old basis's core", from.rows(), from.cols(), rows_, cols_,
                "rows x cols of the optimizer's core");
  require_shape("the new basis's gradient", to.out_extent(), to.in_extent(), from.out_extent(),
                from.in_extent(), "out x in of the old basis");
  const index_t rows = to.rows();
  const index_t cols = to.cols();
  require_extents(rows, cols);
  SparseAdamOptions options = options_;
  options.capacity = capacity.value_or(options_.capacity);
  require_options(options);

  const SparseAdamState<T> old = state(ctx);
  RebaseReport report;
  for (const T x : old.m)
    report.energy_before += static_cast<double>(x) * static_cast<double>(x);

  if (policy == MomentsPolicy::reset) {
    if (rows != rows_ || cols != cols_ || options != options_) {
      *this = SparseAdam(ctx, rows, cols, options);
    } else {
      reset(ctx);
    }
    report.lost_to_basis = report.energy_before > 0 ? 1 : 0;
    report.entries = compact_ ? 0 : size();
    return report;
  }

  // Dense moments on the host, each entry freed of its own bias where it has a count of its own.
  const std::int32_t most = old.count.empty() ? 0 : *std::max_element(old.count.begin(), old.count.end());
  std::vector<T> m(static_cast<std::size_t>(rows_ * cols_));
  std::vector<T> v(m.size());
  for (std::size_t e = 0; e < old.m.size(); ++e) {
    double share1 = 1;
    double share2 = 1;
    if (!old.count.empty() && old.count[e] > 0) {
      share1 = (1 - std::pow(options_.beta1, most)) / (1 - std::pow(options_.beta1, old.count[e]));
      share2 = (1 - std::pow(options_.beta2, most)) / (1 - std::pow(options_.beta2, old.count[e]));
    }
    const std::size_t place = old.compact ? static_cast<std::size_t>(old.index[e]) : e;
    m[place] = static_cast<T>(share1 * static_cast<double>(old.m[e]));
    v[place] = static_cast<T>(share2 * static_cast<double>(old.v[e]));
  }
  double energy = 0;
  for (const T x : m)
    energy += static_cast<double>(x) * static_cast<double>(x);

  const FullPrecision exact(ctx);
  std::vector<T> r = rotation(ctx, from.out(), to.out());
  std::vector<T> q = rotation(ctx, from.in(), to.in());
  m = rotate(ctx, m, rows_, cols_, r, q);
  for (std::vector<T>* factor : {&r, &q})
    for (T& x : *factor)
      x *= x;
  v = rotate(ctx, v, rows_, cols_, r, q);
  double carried = 0;
  index_t nonzero = 0;
  for (const T x : m) {
    carried += static_cast<double>(x) * static_cast<double>(x);
    nonzero += x != T(0) ? 1 : 0;
  }

  SparseAdam next(ctx, rows, cols, options);
  if (next.compact_ && !compact_ && options.overflow == Overflow::go_dense) next.make_dense(ctx);
  SparseAdamState<T> made;
  made.rows = rows;
  made.cols = cols;
  made.options = options;
  made.steps = steps_;
  made.compact = next.compact_;
  double kept = carried;
  if (next.compact_) {
    const index_t n = std::min({next.options_.capacity, size(), nonzero});
    made.index.resize(static_cast<std::size_t>(n));
    made.m.resize(made.index.size());
    made.v.resize(made.index.size());
    if (n > 0) {
      Buffer<T, B> ranked(ctx, rows * cols);
      Buffer<T, B> values(ctx, n);
      Buffer<stored_index_t, B> index(ctx, n);
      upload_n<T>(ctx, m.data(), ranked.data(), rows * cols);
      B::template top_k<T>(ctx, ranked.data(), rows * cols, n, index.data(), values.data());
      made.index = host<stored_index_t>(ctx, index.data(), n);
      made.m = host<T>(ctx, values.data(), n);
    }
    kept = 0;
    for (std::size_t e = 0; e < made.index.size(); ++e) {
      made.v[e] = v[static_cast<std::size_t>(made.index[e])];
      kept += static_cast<double>(made.m[e]) * static_cast<double>(made.m[e]);
    }
  } else {
    made.m = std::move(m);
    made.v = std::move(v);
  }
  if (has_counts()) made.count.assign(made.m.size(), most);
  next.restore(ctx, made);
  *this = std::move(next);

  if (energy > 0) {
    report.lost_to_basis = std::max(0.0, 1 - carried / energy);
    report.lost_to_capacity = std::max(0.0, (carried - kept) / energy);
  }
  report.entries = size();
  return report;
}

template <class T, Backend B>
template <class Side>
std::vector<T> SparseAdam<T, B>::rotation(Context& ctx, const Side& from, const Side& to) {
  if (!from.rotates() && !to.rotates()) return {};
  const index_t n = from.extent();
  const index_t r = from.rank();
  std::vector<T> unit(static_cast<std::size_t>(r * r));
  for (index_t i = 0; i < r; ++i)
    unit[static_cast<std::size_t>(i * r + i)] = T(1);
  Buffer<T, B> one(ctx, r * r);
  Buffer<T, B> columns(ctx, n * r);
  Buffer<T, B> product(ctx, to.rank() * r);
  upload_n<T>(ctx, unit.data(), one.data(), r * r);
  from.expand_rows(ctx, one.matrix(r, r), T(0), columns.matrix(n, r));
  to.project_rows(ctx, columns.matrix(n, r), product.matrix(to.rank(), r));
  return host<T>(ctx, product.data(), product.size());
}

template <class T, Backend B>
std::vector<T> SparseAdam<T, B>::rotate(Context& ctx, std::span<const T> a, index_t rows, index_t cols,
                                        std::span<const T> r, std::span<const T> q) {
  // An empty factor stands for the identity.
  Buffer<T, B> now(ctx, rows * cols);
  upload_n<T>(ctx, a.data(), now.data(), rows * cols);
  if (!r.empty() && rows > 0) {
    const index_t to = static_cast<index_t>(r.size()) / rows;
    Buffer<T, B> factor(ctx, to * rows);
    Buffer<T, B> next(ctx, to * cols);
    upload_n<T>(ctx, r.data(), factor.data(), to * rows);
    B::template gemm<T>(ctx, Op::none, Op::none, T(1), factor.matrix(to, rows), now.matrix(rows, cols), T(0),
                        next.matrix(to, cols));
    now = std::move(next);
    rows = to;
  }
  if (!q.empty() && cols > 0) {
    const index_t to = static_cast<index_t>(q.size()) / cols;
    Buffer<T, B> factor(ctx, to * cols);
    Buffer<T, B> next(ctx, rows * to);
    upload_n<T>(ctx, q.data(), factor.data(), to * cols);
    B::template gemm<T>(ctx, Op::none, Op::transpose, T(1), now.matrix(rows, cols), factor.matrix(to, cols),
                        T(0), next.matrix(rows, to));
    now = std::move(next);
  }
  return host<T>(ctx, now.data(), now.size());
}

template <class T, Backend B>
void SparseAdam<T, B>::require_state(const SparseAdamState<T>& s) const {
  if (s.rows != rows_ || s.cols != cols_) {
    throw ValueError("the saved state is for a core of " + shape_text(s.rows, s.cols) + ", expected " +
                     shape_text(rows_, cols_));
  }
  const auto differs = [](const char* what, const std::string& found, const std::string& expected) {
    if (found != expected) {
      throw ValueError(std::string("the saved state was made with ") + what + " " + found + ", expected " +
                       expected);
    }
  };
  const auto digits = [](double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", x);
    return std::string(text);
  };
  differs("beta1", digits(s.options.beta1), digits(options_.beta1));
  differs("beta2", digits(s.options.beta2), digits(options_.beta2));
  differs("eps", digits(s.options.eps), digits(options_.eps));
  differs("semantics", to_string(s.options.semantics), to_string(options_.semantics));
  differs("capacity", std::to_string(s.options.capacity), std::to_string(options_.capacity));
  differs("overflow policy", to_string(s.options.overflow), to_string(options_.overflow));
  if (s.steps < 0)
    throw ValueError("the saved state has step " + std::to_string(s.steps) + ", expected >= 0");

  const std::size_t entries = s.compact ? s.index.size() : static_cast<std::size_t>(rows_ * cols_);
  const auto require_count = [&](const char* what, std::size_t found, std::size_t expected) {
    if (found != expected) {
      throw ValueError("the saved state has " + std::to_string(found) + " numbers in " + what +
                       ", expected " + std::to_string(expected));
    }
  };
  require_count("m", s.m.size(), entries);
  require_count("v", s.v.size(), entries);
  require_count("count", s.count.size(), has_counts() ? entries : 0);
  if (!s.compact) require_count("index", s.index.size(), 0);
  if (!s.compact && options_.overflow != Overflow::go_dense && starts_compact(rows_, cols_, options_)) {
    throw ValueError(std::string("the saved state is dense, expected compact under overflow policy ") +
                     to_string(options_.overflow));
  }
  if (s.compact && static_cast<index_t>(entries) > options_.capacity) {
    throw ValueError("the saved state has " + std::to_string(entries) +
                     " entries, expected at most its capacity " + std::to_string(options_.capacity));
  }
  for (std::size_t e = 0; e < s.index.size(); ++e) {
    if (s.index[e] < 0 || s.index[e] >= rows_ * cols_ || (e > 0 && s.index[e] <= s.index[e - 1])) {
      throw ValueError("the saved state has position " + std::to_string(s.index[e]) + " at entry " +
                       std::to_string(e) + ", expected strictly rising positions in [0, " +
                       std::to_string(rows_ * cols_) + ")");
    }
  }
  for (std::size_t e = 0; e < entries; ++e) {
    if (s.v[e] < T(0)) {
      throw ValueError("the saved state has v = " + std::to_string(s.v[e]) + " at entry " +
                       std::to_string(e) + ", expected >= 0");
    }
    if (has_counts() && s.count[e] < 0) {
      throw ValueError("the saved state has count " + std::to_string(s.count[e]) + " at entry " +
                       std::to_string(e) + ", expected >= 0");
    }
  }
}

}  // namespace sparsegrad
