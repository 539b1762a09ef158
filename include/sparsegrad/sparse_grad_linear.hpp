// SparseGradLinear: a linear layer whose weight gradient is wanted in a basis, sparse.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hosvd_accumulator.hpp"
#include "plan.hpp"
#include "sparse_gradient.hpp"
#include "top_k.hpp"
#include "tucker_basis.hpp"
#include "weight_update.hpp"

namespace sparsegrad {

/// Where a layer's updates go.
enum class UpdateMode {
  weight,   ///< into W itself, which stays an ordinary weight
  adapter,  ///< into a core matrix Delta beside a frozen W: y = x W^T + b + ((x U) Delta^T) V^T
};

struct LinearOptions {
  WeightLayout layout = WeightLayout::out_in;
  UpdateMode mode = UpdateMode::weight;
  bool track_delta = false;       ///< weight mode: also sum the updates in a core matrix, for export
  std::optional<Plan> plan = {};  ///< overrides the cost model
  Workload workload = {};         ///< what the cost model assumes
  CostModel cost_model = {};      ///< picks the plan and the order of the way back
};

namespace detail {
/// Whether Backend has layers that store T.
template <class T, Backend B>
inline constexpr bool stores_parameters = true;
template <Backend B>
inline constexpr bool stores_parameters<bfloat16, B> = LowPrecisionBackend<B, bfloat16>;
template <Backend B>
inline constexpr bool stores_parameters<float16, B> = LowPrecisionBackend<B, float16>;
}  // namespace detail

/// Gradient memory that layers take turns in: from a layer's first backward (or add_gradient, core, select) until its
/// `clear` it is that layer's, and the same calls of the others throw StateError.
template <class C, Backend B>
class GradientMemory {
 public:
  index_t size() const { return memory_.size(); }
  index_t bytes() const { return memory_.bytes(); }
  bool in_use() const { return in_use_; }

  /// Frees what lies beyond `count` elements; does nothing in the middle of a turn. `count` must be as many as the largest
  /// gradient_count() of the layers that borrow the memory.
  void shrink(typename B::Context& ctx, index_t count) {
    if (in_use_ || count >= memory_.size()) return;
    memory_.release();
    memory_.resize(ctx, count);
  }

 private:
  template <class, Backend>
  friend class SparseGradLinear;

  /// Ends the turn, of a memory that lives until then.
  struct End {
    std::shared_ptr<GradientMemory> owner;
    void operator()(GradientMemory* memory) const noexcept { memory->in_use_ = false; }
  };
  using Turn = std::unique_ptr<GradientMemory, End>;

  static Turn begin(const std::shared_ptr<GradientMemory>& memory) {
    if (memory->in_use_) {
      throw StateError(
          "the shared gradient memory holds another layer's gradient: select that layer's entries (or clear "
          "it) before "
          "the next layer's backward");
    }
    memory->in_use_ = true;
    return Turn(memory.get(), End{memory});
  }
  void require_room(index_t count) const {
    if (count > memory_.size() && in_use_) {
      throw StateError("the shared gradient memory of " + std::to_string(memory_.size()) +
                       " elements must grow to " + std::to_string(count) +
                       ", but holds a layer's gradient; select that layer's entries (or clear it) first");
    }
  }
  void grow(typename B::Context& ctx, index_t count) {
    if (count > memory_.size()) memory_.resize(ctx, count);
  }

  Buffer<C, B> memory_;
  bool in_use_ = false;
};

/// What `backward` needs of a `forward`: x itself, or x U in the memory that the caller gave. One from before a
/// set_basis is of no use afterwards: backward throws where the extents show it, and else computes with the wrong U.
template <class T>
struct SavedInput {
  MatrixView<const T> input;
  bool projected = false;
};

/// y = x W^T + b with W [out, in], x [tokens, in], and its gradients:
///     dX = dY W,   db = column sums of dY,   core G~ = V^T (dY^T X) U   [r, c]
/// Borrows W and b, which must outlive it; owns the sum of its weight gradients in the form that its plan needs. Several
/// backward passes add up until `clear`. Without a basis both sides are identities and the core is dW itself.
///
/// One optimizer step:
///     auto saved = layer.forward(ctx, x, y);
///     layer.backward(ctx, dy, saved, dx, db);
///     layer.select(ctx, TopK{28000}, s);
///     adam.step(ctx, s, {.learning_rate = 1e-4}, d);
///     layer.apply(ctx, d);
///     layer.clear(ctx);
/// T = bfloat16 or float16: W, b, x, y, dY, dX and x U are stored in T; the sum of the gradients, basis, core, updates,
/// delta and db are in C = compute_t<T> = float. W is then the rounded copy of a master in C, to which updates go:
/// W = round(master) after construction, apply, merge and unmerge. Every sum is float's and rounded once where its result
/// is a T; a plan that projects tokens first rounds X U and dY V to T (docs/math.md). Otherwise C is T.
/// Source: the paper, section 3 and Table 2; the plans are described in docs/math.md.
template <class T, Backend B = DefaultBackend>
class SparseGradLinear {
  static_assert(
      detail::stores_parameters<T, B>,
      "layers of bfloat16 or float16 need a backend with the primitives of LowPrecisionBackend: "
      "backend::Cuda, "
      "backend::Reference or backend::ThrustHost; backend::Cpu and backend::CpuBlas have float and double");

 public:
  using C = compute_t<T>;
  using Context = typename B::Context;
  using Basis = TuckerBasis<C, B>;
  using Accumulator = HosvdAccumulator<C, B>;
  /// Adds up a finished gradient over processes, in place: see `gradient`.
  using Reduce = std::function<void(Context&, MatrixView<C>)>;

  /// `weight` is [out, in] or, by option, [in, out]; `bias` [out] or null.
  /// Throws ShapeError when the weight is empty, ValueError for options that exclude each other: a weight narrower than
  /// C without a master cannot be trained, only stand frozen under an adapter.
  SparseGradLinear(Context& ctx, MatrixView<T> weight, T* bias, LinearOptions options = {})
      : weight_(weight), bias_(bias), options_(options) {
    if (is_low_precision<T> && options.mode != UpdateMode::adapter) {
      throw ValueError(
          "a layer that trains a weight of 16 bits needs a float master of it, given behind the weight: "
          "updates below half a unit of its last place would be lost");
    }
    take_extents();
    start(ctx);
  }

  /// The same for T narrower than C, with the master of the weight: a matrix of the weight's shape and layout, any
  /// stride, borrowed like the weight, which becomes the rounded master here. Throws ShapeError when the shapes differ.
  SparseGradLinear(Context& ctx, MatrixView<T> weight, MatrixView<C> master, T* bias,
                   LinearOptions options = {}) requires(is_low_precision<T>)
      : weight_(weight), master_(master), bias_(bias), options_(options) {
    take_extents();
    require_shape("master", master.rows, master.cols, weight.rows, weight.cols, "extents of the weight");
    start(ctx);
    round_master(ctx);
  }

  /// An adapter over a weight that lives elsewhere (quantised, say): forward adds the adapter's term to y alone, backward
  /// adds its term to dX.
  SparseGradLinear(Context& ctx, index_t out, index_t in, LinearOptions options)
      : options_(options), out_(out), in_(in) {
    if (options.mode != UpdateMode::adapter) {
      throw ValueError("a layer without a weight of its own needs UpdateMode::adapter");
    }
    if (out <= 0 || in <= 0)
      throw ShapeError("layer is " + shape_text(out, in) + ", expected positive extents");
    start(ctx);
  }

  index_t out_extent() const { return out_; }
  index_t in_extent() const { return in_; }
  const std::shared_ptr<const Basis>& basis() const { return basis_; }
  const Plan& plan() const { return plan_; }
  const LinearOptions& options() const { return options_; }
  MatrixView<T> weight() const { return weight_; }
  /// What updates go to: the master of a narrow weight (empty where none was given), else the weight itself.
  MatrixView<C> master() const {
    if constexpr (is_low_precision<T>) {
      return master_;
    } else {
      return weight_;
    }
  }
  /// W = round(master): after the caller has written to the master himself. Nothing where there is none.
  void round_master(Context& ctx) {
    if constexpr (is_low_precision<T>) {
      if (master_.data != nullptr) B::template round_to<T>(ctx, master_, weight_);
    }
  }
  T* bias() const { return bias_; }
  /// Whether there is a gradient: from the first backward, add_gradient, core or select until clear.
  bool accumulating() const { return state_ != State::empty; }
  /// Whether that gradient is complete: core, gradient or select was called.
  bool finished() const { return state_ == State::finished; }
  bool collecting() const { return !accumulator_.expired(); }
  /// Whether only the gradient at a support given before is computed, so that there is no core.
  bool has_fixed_support() const { return fixed(); }
  /// Bytes owned: the gradient, the adapter's or tracked delta, the fixed support. The basis is shared and not counted.
  index_t gradient_bytes() const { return gradient_.bytes() + support_values_.bytes(); }
  index_t delta_bytes() const { return delta_.bytes() + support_.bytes(); }

  /// Sets the basis, null for none, and chooses the plan anew; `plan` is taken in place of the choice (a checkpoint's),
  /// until the next. A merged adapter's delta stays in the weight for good: the adapter begins anew, at 0. Throws
  /// ShapeError when the basis's extents are not the layer's; StateError in the middle of an accumulation, or while a
  /// delta is held that is not merged, since it has no meaning in another basis.
  void set_basis(Context& ctx, std::shared_ptr<const Basis> basis, std::optional<Plan> plan = {}) {
    if (basis == nullptr) basis = Basis::identity(out_, in_);
    require_shape("basis", basis->out_extent(), basis->in_extent(), out_, in_, "out x in of the layer");
    require_rebasable("set_basis");
    if (!plan) plan = options_.plan;
    const Order order = order_of(*basis, plan, options_.workload, collecting(), false);
    require_room(order);
    if constexpr (is_low_precision<T>) narrow_ = &basis->template low_precision<T>(ctx);
    basis_ = std::move(basis);
    support_ = {};
    support_values_.release();
    take_order(ctx, order);
    delta_used_ = false;
    merged_ = false;
    if (keeps_delta()) delta_.resize(ctx, basis_->rows() * basis_->cols());
  }

  /// Throws what set_basis would throw at any basis of this layer's extents: StateError.
  void require_rebasable(const char* call) const {
    require_idle(call);
    if (delta_used_ && !merged_) {
      throw StateError(
          std::string(call) +
          ": the layer holds a delta in its present basis; merge it, or export it and call reset_delta");
    }
  }

  /// Chooses the plan anew for another workload, or takes the given one. Throws StateError in an accumulation.
  void set_plan(Context& ctx, std::optional<Plan> plan, Workload workload = {}) {
    require_idle("set_plan");
    const Order order = order_of(*basis_, plan, workload, collecting(), fixed());
    require_room(order);
    options_.plan = plan;
    options_.workload = workload;
    take_order(ctx, order);
  }

  /// From now on only the gradient at these entries is computed, by a sampled product and without a dense core (SDDMM);
  /// an empty gradient object ends that. Throws ShapeError; StateError in an accumulation or while collecting.
  void set_support(Context& ctx, const SparseGradient<C, B>& support) {
    require_idle("set_support");
    if (collecting())
      throw StateError("set_support: the layer is collecting gradients, which needs them whole");
    const bool ends = support.count() == 0 && support.capacity() == 0;
    if (!ends) {
      require_shape("support", support.rows(), support.cols(), basis_->rows(), basis_->cols(),
                    "rows x cols of the core");
    }
    const Order order = order_of(*basis_, options_.plan, options_.workload, false, !ends);
    require_room(order);
    if (ends) {
      support_ = {};
      support_values_.release();
    } else {
      SparseGradient<C, B> own(ctx, support.rows(), support.cols(), support.count());
      own.copy_support(ctx, support);
      support_values_.resize(ctx, support.count());
      support_ = std::move(own);
    }
    take_order(ctx, order);
  }
  /// The fixed support, its values without meaning; empty where there is none.
  const SparseGradient<C, B>& support() const { return support_; }

  /// Uses `memory`, which grows to what the layer's present and later plans need, in place of gradient memory of the
  /// layer's own; null: own memory again. Layers of one context that take turns may share it (GradientMemory). Throws
  /// StateError in an accumulation, or when the memory must grow in the middle of another layer's turn.
  void borrow_gradient_memory(Context& ctx, std::shared_ptr<GradientMemory<C, B>> memory) {
    require_idle("borrow_gradient_memory");
    const index_t count = fixed() ? 0 : gradient_count();
    if (memory != nullptr) memory->require_room(count);
    turn_.reset();
    shared_ = std::move(memory);
    take_order(ctx, {plan_, count});
  }
  /// Elements of gradient memory that the present plan needs.
  index_t gradient_count() const { return count_of(*basis_, plan_); }

  /// As long as the accumulator lives, every step's whole weight gradient also goes to it, when it is finished (core,
  /// gradient, select). Set it before forward: a collecting step keeps X and forms dW. Null ends it, and chooses the
  /// plan anew. Throws StateError in an accumulation or with a fixed support.
  void collect(Context& ctx, const std::shared_ptr<Accumulator>& accumulator) {
    require_collectable("collect", accumulator != nullptr);
    const Order order = order_of(*basis_, options_.plan, options_.workload, accumulator != nullptr, fixed());
    require_room(order);
    accumulator_ = accumulator;
    take_order(ctx, order);
  }
  /// Throws what `collect` would throw: StateError.
  void require_collectable(const char* call, bool accumulates) const {
    require_idle(call);
    if (accumulates && fixed())
      throw StateError(std::string(call) + ": the layer has a fixed support; end it first");
  }

  /// After this no call of a step with up to `max_tokens` tokens allocates. `update_capacity`: the most entries of an
  /// update (0: the whole core).
  void reserve(Context& ctx, index_t max_tokens, index_t update_capacity = 0) {
    const index_t core = basis_->rows() * basis_->cols();
    const index_t element = static_cast<index_t>(sizeof(C));
    const index_t wide = std::max({out_, in_, basis_->rows(), basis_->cols()});
    index_t step = 3 * max_tokens * wide * static_cast<index_t>(sizeof(T)) + 2 * out_ * in_ * element +
                   B::template scratch_bound<C>(ctx, std::max(max_tokens * wide, out_ * in_));
    if constexpr (is_low_precision<T>) {
      step += element * std::max(narrow_->out().scratch_elements(max_tokens),
                                 narrow_->in().scratch_elements(max_tokens));
    }
    const index_t back =
        add_expanded_scratch<C, B>(ctx, *basis_, update_capacity > 0 ? update_capacity : core);
    ctx.scratch().reserve(std::max(step, back) + (index_t{1} << 20));
  }

  /// Columns of the memory that `forward` wants for x U; 0 when it keeps x. Only a projected input that is narrower than
  /// x itself is kept in its place.
  index_t kept_cols() const {
    return !collecting() && plan_.in == SideOrder::project_first && basis_->cols() < in_ ? basis_->cols() : 0;
  }

  /// y = x W^T + b, X [tokens, in], Y [tokens, out]. `keep` [tokens, kept_cols()] receives x U where kept_cols() > 0;
  /// without it x is kept. What the result refers to must live until its backward.
  /// Throws ShapeError, before anything is written.
  SavedInput<T> forward(Context& ctx, ConstMatrixView<T> x, MatrixView<T> y, MatrixView<T> keep = {}) const {
    require_shape("X", x.rows, x.cols, x.rows, in_, "tokens x in");
    require_shape("Y", y.rows, y.cols, x.rows, out_, "tokens x out");
    const bool narrow = kept_cols() > 0 && keep.cols > 0;
    if (narrow) require_shape("keep", keep.rows, keep.cols, x.rows, kept_cols(), "tokens x kept_cols()");
    if (weight_.data != nullptr) {
      B::template gemm<T>(ctx, Op::none, weight_op(Op::transpose), C(1), x, weight_, C(0), y);
    }
    if (bias_ != nullptr) B::template add_to_rows<T>(ctx, bias_, y);
    SavedInput<T> saved{x, false};
    if (narrow) {
      token_basis().in().project_columns(ctx, x, keep);
      saved = {keep, true};
    }
    if (has_adapter_term()) {
      auto frame = ctx.frame();
      MatrixView<const T> xu = keep;
      if (!narrow) xu = projected_input(ctx, frame, x);
      const MatrixView<const T> delta = token_delta(ctx, frame);
      if (basis_->out().rotates()) {
        const MatrixView<T> core_y = frame.template matrix<T>(x.rows, basis_->rows());
        B::template gemm<T>(ctx, Op::none, Op::transpose, C(1), xu, delta, C(0), core_y);
        token_basis().out().expand_columns(ctx, core_y, C(1), y);
      } else {
        B::template gemm<T>(ctx, Op::none, Op::transpose, C(1), xu, delta, C(1), y);
      }
    }
    return saved;
  }

  /// dX = dY W (written; skipped when empty), db += column sums of dY (skipped when null), and the layer's gradient
  /// += that of these tokens. An adapter without a weight adds its term to dX instead of writing it.
  /// Throws ShapeError; StateError after core() or select() until clear(), or in another layer's turn of a shared
  /// gradient memory. Nothing has changed then.
  void backward(Context& ctx, ConstMatrixView<T> dy, const SavedInput<T>& saved, MatrixView<T> dx, C* db) {
    require_shape("dY", dy.rows, dy.cols, saved.input.rows, out_, "tokens x out");
    require_shape("saved input", saved.input.rows, saved.input.cols, dy.rows,
                  saved.projected ? basis_->cols() : in_,
                  saved.projected ? "tokens x rank of the input side" : "tokens x in");
    if (!dx.empty()) require_shape("dX", dx.rows, dx.cols, dy.rows, in_, "tokens x in");
    require_open("backward");
    if (saved.projected && plan_.in != SideOrder::project_first) {
      throw StateError(
          "backward: the saved input is x U, but the layer needs x; it was made before collect or set_plan");
    }
    const bool first = begin(ctx);
    if (db != nullptr && dy.rows > 0) B::template column_sums<T>(ctx, dy, db);

    auto frame = ctx.frame();
    MatrixView<const T> dy_v = dy;
    if (plan_.out == SideOrder::project_first || has_adapter_term()) dy_v = projected_output(ctx, frame, dy);
    if (!dx.empty()) {
      if (weight_.data != nullptr) {
        B::template gemm<T>(ctx, Op::none, weight_op(Op::none), C(1), dy, weight_, C(0), dx);
      }
      if (has_adapter_term()) {
        const MatrixView<const T> delta = token_delta(ctx, frame);
        if (basis_->in().rotates()) {
          const MatrixView<T> core_x = frame.template matrix<T>(dy.rows, basis_->cols());
          B::template gemm<T>(ctx, Op::none, Op::none, C(1), dy_v, delta, C(0), core_x);
          token_basis().in().expand_columns(ctx, core_x, C(1), dx);
        } else {
          B::template gemm<T>(ctx, Op::none, Op::none, C(1), dy_v, delta, C(1), dx);
        }
      }
    }

    MatrixView<const T> x_u = saved.input;
    if (plan_.in == SideOrder::project_first && !saved.projected)
      x_u = projected_input(ctx, frame, saved.input);
    const MatrixView<const T> left = plan_.out == SideOrder::project_first ? dy_v : dy;
    if (fixed()) {
      if (support_.dense()) {
        add_product(ctx, left, x_u, C(1), support_values_.matrix(basis_->rows(), basis_->cols()));
      } else {
        B::template sampled_product<T>(ctx, left, x_u, support_.indices(), support_.count(), basis_->cols(),
                                       support_values_.data());
      }
    } else {
      add_product(ctx, left, x_u, first ? C(0) : C(1), sum());
    }
    state_ = State::open;
  }

  /// Adds a weight gradient that the engine computed itself, dW [out, in] in C (also for a weight stored [in, out]).
  /// Throws ShapeError, StateError as backward.
  void add_gradient(Context& ctx, ConstMatrixView<C> dw) {
    require_shape("dW", dw.rows, dw.cols, out_, in_, "out x in");
    require_open("add_gradient");
    const bool first = begin(ctx);
    auto frame = ctx.frame();
    MatrixView<const C> g = dw;
    if (plan_.out == SideOrder::project_first) {
      const MatrixView<C> half = frame.template matrix<C>(basis_->rows(), in_);
      basis_->out().project_rows(ctx, g, half);
      g = half;
    }
    if (plan_.in == SideOrder::project_first) {
      const MatrixView<C> half = frame.template matrix<C>(g.rows, basis_->cols());
      basis_->in().project_columns(ctx, g, half);
      g = half;
    }
    if (fixed()) {
      MatrixView<C> whole = frame.template matrix<C>(basis_->rows(), basis_->cols());
      B::template copy<C>(ctx, g, whole);
      C* gathered = frame.template take<C>(support_.count());
      const C* values = whole.data;
      if (!support_.dense()) {
        B::template gather<C>(ctx, whole.data, support_.indices(), support_.count(), gathered);
        values = gathered;
      }
      B::template add<C>(ctx, C(1), MatrixView<const C>(values, 1, support_.count()),
                         support_values_.matrix(1, support_.count()));
    } else if (first) {
      B::template copy<C>(ctx, g, sum());
    } else {
      B::template add<C>(ctx, C(1), g, sum());
    }
    state_ = State::open;
  }

  /// The finished gradient, contiguous and mutable until `select`: the core [r, c], or, with a fixed support, the values
  /// at its entries [1, k]. At the first call
  ///   1. `reduce(ctx, G)`, if given, is to make G, linear in the data, the sum over all processes, in place: while
  ///      collecting G is the whole weight gradient [out, in], else the core or the values;
  ///   2. while collecting, the whole weight gradient goes to the accumulator: under NonFinite::raise one with NaN or Inf
  ///      throws NonFiniteError, otherwise it is left out of the accumulator;
  ///   3. the sum is projected where the plan left that to the end (before 1 where nothing is collected).
  /// Further calls return the same view until `clear`. Without any backward it is 0, which is reduced as well, but not
  /// collected unless `reduce` is given: other processes may have a gradient.
  /// Throws StateError in another layer's turn of a shared gradient memory.
  MatrixView<C> gradient(Context& ctx, NonFinite policy = NonFinite::raise, const Reduce& reduce = nullptr) {
    if (state_ == State::finished) return finished_gradient();
    const bool collects = state_ != State::empty || reduce;
    if (begin(ctx) && !fixed()) B::template zero<C>(ctx, memory(), sum().size());
    const std::shared_ptr<Accumulator> accumulator = accumulator_.lock();
    if (fixed()) {
      if (reduce) reduce(ctx, finished_gradient());
    } else if (accumulator != nullptr) {
      const MatrixView<C> whole = sum();
      if (reduce && state_ != State::reduced) reduce(ctx, whole);
      state_ = State::reduced;
      if (collects && policy == NonFinite::raise) {
        accumulator->add(ctx, whole);
      } else if (collects) {
        accumulator->add_if_finite(ctx, whole);
      }
      project_sum(ctx, whole);
    } else {
      project_sum(ctx, sum());
      if (reduce) reduce(ctx, finished_gradient());
    }
    state_ = State::finished;
    return finished_gradient();
  }

  /// The same, of a layer without fixed support: the core gradient [r, c]. Throws StateError with one.
  MatrixView<C> core(Context& ctx) {
    if (fixed())
      throw StateError("core: the layer has a fixed support and forms no dense core; use gradient or select");
    return gradient(ctx);
  }

  /// Writes the kept entries of the core to `s` [r, c]. `selector(ctx, core, s)` is TopK, FixedSupport or any callable
  /// that fills s; with a fixed support (set_support) it is not asked. Throws what the selector and `gradient` throw.
  template <class Selector>
  SelectReport select(Context& ctx, const Selector& selector, SparseGradient<C, B>& s,
                      NonFinite policy = NonFinite::raise) {
    require_shape("sparse gradient", s.rows(), s.cols(), basis_->rows(), basis_->cols(),
                  "rows x cols of the core");
    const MatrixView<C> whole = gradient(ctx, policy);
    if (fixed()) {
      s.copy_support(ctx, support_);
      B::template copy<C>(ctx, whole, MatrixView<C>(s.values(), 1, s.count()));
      SelectReport report{s.count(), s.count(), false, false};
      detail::check_finite<C, B>(ctx, s, policy, report);
      return report;
    }
    if constexpr (std::is_invocable_r_v<SelectReport, const Selector&, Context&, MatrixView<C>,
                                        SparseGradient<C, B>&, NonFinite>) {
      return selector(ctx, whole, s, policy);
    } else {
      selector(ctx, whole, s);
      SelectReport report{s.count(), s.count(), false, false};
      detail::check_finite<C, B>(ctx, s, policy, report);
      return report;
    }
  }

  /// W <- (1 - decay) W + V D U^T, in place; D [r, c] carries -lr, decay is learning rate times weight decay. An
  /// adapter changes its delta alone, by the same rule. Throws ShapeError, ValueError unless 0 <= decay <= 1, StateError
  /// for an adapter that is merged; nothing has changed then. (Without `reserve` scratch memory may run out halfway.)
  void apply(Context& ctx, const SparseGradient<C, B>& d, double decay = 0) {
    require_shape("update D", d.rows(), d.cols(), basis_->rows(), basis_->cols(), "rows x cols of the core");
    if (!(decay >= 0 && decay <= 1)) {
      throw ValueError("decay is " + std::to_string(decay) +
                       ", expected 0 <= learning rate * weight decay <= 1");
    }
    require_updatable("apply");
    const auto keep = static_cast<C>(1 - decay);
    if (options_.mode == UpdateMode::adapter) {
      if (decay != 0) B::template scale<C>(ctx, keep, delta_matrix());
      return add_to_delta(ctx, d);
    }
    if (decay != 0) B::template scale<C>(ctx, keep, master());
    add_expanded<C, B>(ctx, *basis_, d, options_.layout, master(), options_.cost_model);
    round_master(ctx);
    if (options_.track_delta) {
      if (decay != 0) B::template scale<C>(ctx, keep, delta_matrix());
      add_to_delta(ctx, d);
    }
  }
  /// Throws StateError for a merged adapter, which takes no updates.
  void require_updatable(const char* call) const {
    if (merged_)
      throw StateError(std::string(call) + ": the adapter is merged into the weight; unmerge it first");
  }

  /// Forgets the gradient: the next backward starts a new sum, and a shared gradient memory is free.
  void clear(Context&) {
    state_ = State::empty;
    turn_.reset();
  }

  /// Whether the layer keeps a delta: an adapter, or one with track_delta.
  bool keeps_delta() const { return options_.mode == UpdateMode::adapter || options_.track_delta; }
  /// The summed updates [r, c] of an adapter or, with track_delta, of the weight (apart from decay of W itself).
  /// Throws StateError when the layer keeps none.
  MatrixView<const C> delta() const {
    require_delta("delta");
    return delta_.matrix(basis_->rows(), basis_->cols());
  }

  /// The delta becomes this one, W stays as it is: for a layer whose weight is that of the delta's checkpoint.
  /// Throws ShapeError; StateError when the layer keeps no delta, or holds it merged.
  void set_delta(Context& ctx, const SparseGradient<C, B>& delta) {
    require_delta("set_delta");
    require_shape("delta", delta.rows(), delta.cols(), basis_->rows(), basis_->cols(),
                  "rows x cols of the core");
    require_updatable("set_delta");
    B::template zero<C>(ctx, delta_.data(), delta_.size());
    add_to_delta(ctx, delta);
    delta_used_ = delta.count() > 0;
  }
  /// The delta becomes 0, W stays as it is; after merge the delta so stays in W for good. Frees the layer for another
  /// basis. Throws StateError when the layer keeps no delta.
  void reset_delta(Context& ctx) {
    require_delta("reset_delta");
    B::template zero<C>(ctx, delta_.data(), delta_.size());
    delta_used_ = false;
    merged_ = false;
  }

  /// The delta's non-zero entries, for a file or another process. Allocates. Throws StateError when none is kept.
  SparseGradient<C, B> export_delta(Context& ctx) const {
    require_delta("export_delta");
    std::vector<C> values(static_cast<std::size_t>(delta_.size()));
    B::template download<C>(ctx, delta_.data(), values.data(), delta_.size());
    std::vector<stored_index_t> index;
    std::vector<C> kept;
    for (std::size_t e = 0; e < values.size(); ++e) {
      if (values[e] == C(0)) continue;
      index.push_back(static_cast<stored_index_t>(e));
      kept.push_back(values[e]);
    }
    SparseGradient<C, B> sparse(ctx, basis_->rows(), basis_->cols(), static_cast<index_t>(index.size()));
    sparse.assign(ctx, index, kept);
    return sparse;
  }

  /// Adds a delta that was exported: an adapter takes it as its own, otherwise W += V Delta U^T.
  void import_delta(Context& ctx, const SparseGradient<C, B>& delta) { apply(ctx, delta); }

  /// W += V Delta U^T; from then on forward is that of a plain layer. Throws StateError for a layer that is not an
  /// adapter, has no weight, or one narrower than C without a master, or is merged; NonFiniteError when the delta holds
  /// NaN or Inf, which no unmerge would take out of W again.
  void merge(Context& ctx) { fold(ctx, C(1), "merge"); }
  /// W -= V Delta U^T, to rounding what it was before merge.
  void unmerge(Context& ctx) { fold(ctx, C(-1), "unmerge"); }
  bool merged() const { return merged_; }

 private:
  enum class State { empty, open, reduced, finished };

  /// A plan and the gradient memory that it needs.
  struct Order {
    Plan plan;
    index_t count = 0;
  };

  void start(Context& ctx) { set_basis(ctx, nullptr); }

  void take_extents() {
    const bool out_in = options_.layout == WeightLayout::out_in;
    out_ = out_in ? weight_.rows : weight_.cols;
    in_ = out_in ? weight_.cols : weight_.rows;
    if (weight_.empty()) {
      throw ShapeError("weight is " + shape_text(weight_.rows, weight_.cols) + ", expected positive extents");
    }
  }

  bool fixed() const { return support_.capacity() > 0; }
  bool has_adapter_term() const { return options_.mode == UpdateMode::adapter && delta_used_ && !merged_; }

  index_t sum_rows() const { return plan_.out == SideOrder::project_first ? basis_->rows() : out_; }
  index_t sum_cols() const { return plan_.in == SideOrder::project_first ? basis_->cols() : in_; }
  C* memory() { return shared_ != nullptr ? shared_->memory_.data() : gradient_.data(); }
  MatrixView<C> sum() { return MatrixView<C>(memory(), sum_rows(), sum_cols()); }
  MatrixView<C> finished_gradient() {
    return fixed() ? support_values_.matrix(1, support_.count())
                   : MatrixView<C>(memory(), basis_->rows(), basis_->cols());
  }
  MatrixView<C> delta_matrix() { return delta_.matrix(basis_->rows(), basis_->cols()); }

  /// Begins the gradient unless there is one; whether it did. Throws StateError before anything has changed.
  bool begin(Context& ctx) {
    if (state_ != State::empty) return false;
    if (fixed()) {
      B::template zero<C>(ctx, support_values_.data(), support_values_.size());
      return true;
    }
    if (shared_ != nullptr && turn_ == nullptr) turn_ = GradientMemory<C, B>::begin(shared_);
    if (memory() == nullptr) {
      throw StateError(
          "the layer has no gradient memory: its allocation failed before; call set_plan or set_basis again");
    }
    return true;
  }

  Op weight_op(Op as_out_in) const {
    if (options_.layout == WeightLayout::out_in) return as_out_in;
    return as_out_in == Op::none ? Op::transpose : Op::none;
  }

  Order order_of(const Basis& basis, const std::optional<Plan>& wanted, const Workload& workload,
                 bool collects, bool fixed) const {
    const SideShape out = detail::shape_of(basis.out());
    const SideShape in = detail::shape_of(basis.in());
    Plan plan;
    if (collects) {
      plan = {SideOrder::multiply_first, SideOrder::multiply_first};
    } else if (fixed) {
      plan = {SideOrder::project_first, SideOrder::project_first};
    } else {
      plan = wanted ? *wanted : choose_plan(out, in, workload, options_.cost_model);
    }
    if (out.kind == SideKind::identity) plan.out = SideOrder::multiply_first;
    if (in.kind == SideKind::identity) plan.in = SideOrder::multiply_first;
    return {plan, fixed ? 0 : count_of(basis, plan)};
  }

  /// Elements of the sum, and of the core that takes its place.
  index_t count_of(const Basis& basis, const Plan& plan) const {
    const index_t rows = plan.out == SideOrder::project_first ? basis.rows() : out_;
    const index_t cols = plan.in == SideOrder::project_first ? basis.cols() : in_;
    return std::max(rows * cols, basis.rows() * basis.cols());
  }

  void require_room(const Order& order) const {
    if (shared_ != nullptr) shared_->require_room(order.count);
  }
  void take_order(Context& ctx, const Order& order) {
    plan_ = order.plan;
    if (shared_ != nullptr) {
      gradient_.release();
      shared_->grow(ctx, order.count);
    } else {
      gradient_.resize(ctx, order.count);
    }
  }

  /// The basis as products with tokens use it.
  const auto& token_basis() const {
    if constexpr (is_low_precision<T>) {
      return *narrow_;
    } else {
      return *basis_;
    }
  }
  /// The delta as products with tokens use it.
  template <class Frame>
  MatrixView<const T> token_delta(Context& ctx, Frame& frame) const {
    if constexpr (is_low_precision<T>) {
      const MatrixView<T> rounded = frame.template matrix<T>(basis_->rows(), basis_->cols());
      B::template round_to<T>(ctx, delta(), rounded);
      return rounded;
    } else {
      return delta();
    }
  }
  /// S = A^T B + beta S
  static void add_product(Context& ctx, MatrixView<const T> a, MatrixView<const T> b, C beta,
                          MatrixView<C> s) {
    if constexpr (is_low_precision<T>) {
      B::template gemm_wide<T>(ctx, Op::transpose, Op::none, C(1), a, b, beta, s);
    } else {
      B::template gemm<T>(ctx, Op::transpose, Op::none, C(1), a, b, beta, s);
    }
  }

  template <class Frame>
  MatrixView<const T> projected_input(Context& ctx, Frame& frame, MatrixView<const T> x) const {
    if (!basis_->in().rotates()) return x;
    const MatrixView<T> xu = frame.template matrix<T>(x.rows, basis_->cols());
    token_basis().in().project_columns(ctx, x, xu);
    return xu;
  }
  template <class Frame>
  MatrixView<const T> projected_output(Context& ctx, Frame& frame, MatrixView<const T> dy) const {
    if (!basis_->out().rotates()) return dy;
    const MatrixView<T> dyv = frame.template matrix<T>(dy.rows, basis_->rows());
    token_basis().out().project_columns(ctx, dy, dyv);
    return dyv;
  }

  /// Projects what the plan left, from the front of the gradient memory to the front of it.
  void project_sum(Context& ctx, MatrixView<C> whole) {
    bool out_left = plan_.out == SideOrder::multiply_first && basis_->out().rotates();
    bool in_left = plan_.in == SideOrder::multiply_first && basis_->in().rotates();
    const MatrixView<C> core(memory(), basis_->rows(), basis_->cols());
    // A fast transform works in place; it comes first unless the other side makes its matrix smaller.
    if (in_left && !basis_->in().has_factor() && (!out_left || basis_->rows() == out_)) {
      B::template hadamard<C>(ctx, basis_->in().signs(), false, TransformSide::rows, whole);
      in_left = false;
    }
    if (out_left && !basis_->out().has_factor() && (!in_left || basis_->cols() == in_)) {
      B::template hadamard<C>(ctx, basis_->out().signs(), false, TransformSide::columns, whole);
      out_left = false;
    }
    if (!out_left && !in_left) return;
    auto frame = ctx.frame();
    if (out_left && in_left) {
      if (options_.cost_model.projects_columns_first(detail::shape_of(basis_->out()),
                                                     detail::shape_of(basis_->in()))) {
        const MatrixView<C> half = frame.template matrix<C>(out_, basis_->cols());
        basis_->in().project_columns(ctx, whole, half);
        basis_->out().project_rows(ctx, half, core);
      } else {
        const MatrixView<C> half = frame.template matrix<C>(basis_->rows(), in_);
        basis_->out().project_rows(ctx, whole, half);
        basis_->in().project_columns(ctx, half, core);
      }
      return;
    }
    const MatrixView<C> copy = frame.template matrix<C>(whole.rows, whole.cols);
    B::template copy<C>(ctx, whole, copy);
    if (out_left) {
      basis_->out().project_rows(ctx, copy, core);
    } else {
      basis_->in().project_columns(ctx, copy, core);
    }
  }

  void add_to_delta(Context& ctx, const SparseGradient<C, B>& d) {
    delta_used_ = true;
    if (d.dense()) return B::template add<C>(ctx, C(1), d.matrix(), delta_matrix());
    auto frame = ctx.frame();
    C* sums = frame.template take<C>(d.count());
    B::template gather<C>(ctx, delta_.data(), d.indices(), d.count(), sums);
    B::template add<C>(ctx, C(1), MatrixView<const C>(d.values(), 1, d.count()),
                       MatrixView<C>(sums, 1, d.count()));
    B::template scatter<C>(ctx, sums, d.indices(), d.count(), delta_.data());
  }

  void fold(Context& ctx, C sign, const char* call) {
    require_delta(call);
    if (options_.mode != UpdateMode::adapter)
      throw StateError(std::string(call) + ": the layer is not an adapter");
    if (weight_.data == nullptr) throw StateError(std::string(call) + ": the layer has no weight of its own");
    if (master().data == nullptr) {
      throw StateError(std::string(call) + ": the weight has 16 bits and no float master was given");
    }
    const bool want_merged = sign > C(0);
    if (merged_ == want_merged) {
      throw StateError(std::string(call) + ": the adapter is " + (merged_ ? "merged already" : "not merged"));
    }
    const index_t bad = want_merged ? B::template first_nonfinite<C>(ctx, delta()) : -1;
    if (bad >= 0) {
      throw NonFiniteError(std::string(call) + ": the delta holds NaN or Inf at row " +
                           std::to_string(bad / basis_->cols()) + ", column " +
                           std::to_string(bad % basis_->cols()) + "; expected finite numbers");
    }
    SparseGradient<C, B> update = export_delta(ctx);
    B::template scale<C>(ctx, sign, MatrixView<C>(update.values(), 1, update.count()));
    add_expanded<C, B>(ctx, *basis_, update, options_.layout, master(), options_.cost_model);
    round_master(ctx);
    merged_ = want_merged;
  }

  void require_idle(const char* call) const {
    if (state_ != State::empty) {
      throw StateError(std::string(call) + ": a gradient is being accumulated; call clear first");
    }
  }
  void require_open(const char* call) const {
    if (state_ == State::reduced || state_ == State::finished) {
      throw StateError(std::string(call) +
                       ": the core of this step is finished; call clear before the next backward");
    }
  }
  void require_delta(const char* call) const {
    if (delta_.empty()) {
      throw StateError(std::string(call) +
                       ": the layer keeps no delta; construct it as an adapter or with track_delta");
    }
  }

  MatrixView<T> weight_;
  MatrixView<C> master_;  ///< of a narrow weight
  T* bias_ = nullptr;
  LinearOptions options_;
  index_t out_ = 0;
  index_t in_ = 0;
  std::shared_ptr<const Basis> basis_;
  const LowPrecisionBasis<T, B>* narrow_ = nullptr;  ///< of a narrow T; basis_ owns it
  Plan plan_;
  State state_ = State::empty;
  std::weak_ptr<Accumulator> accumulator_;
  std::shared_ptr<GradientMemory<C, B>> shared_;  ///< null: gradient_
  typename GradientMemory<C, B>::Turn turn_;
  Buffer<C, B> gradient_;         ///< sum of this step's gradients, then the core
  SparseGradient<C, B> support_;  ///< the fixed support, if any
  Buffer<C, B> support_values_;
  Buffer<C, B> delta_;
  bool delta_used_ = false;
  bool merged_ = false;
};

}  // namespace sparsegrad
