// SparseGradLinear: a linear layer whose weight gradient is wanted in a basis, sparse.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core_gradient.hpp"
#include "selector.hpp"
#include "sparse_gradient.hpp"
#include "top_k.hpp"
#include "trained_weight.hpp"
#include "weight_update.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Options of a SparseGradLinear.
struct LinearOptions {
  /// How the weight is stored.
  WeightLayout layout = WeightLayout::out_in;
  std::optional<Plan> plan = {};  ///< overrides the cost model
  Workload workload = {};         ///< what the cost model assumes
  /// Picks the plan and the order of the weight's update; without: default_cost_model.
  std::optional<CostModel> cost_model = {};
  /// Of the products of basis and finished gradient, and of the weight's update; full where it is
  /// not available (available_rotations). Without: default_rotations.
  std::optional<RotationPrecision> rotations = {};
};

namespace detail {
/// Whether B has layers that store T.
template <class T, class B>
inline constexpr bool stores_parameters = true;
template <class B>
inline constexpr bool stores_parameters<bfloat16, B> = LowPrecisionBackend<B, bfloat16>;
template <class B>
inline constexpr bool stores_parameters<float16, B> = LowPrecisionBackend<B, float16>;
}  // namespace detail

/// A linear layer y = x W^T + b that forms the core of its weight gradient in place of the
/// gradient.
///
/// W is [out, in], x [tokens, in]:
///
///     dX = dY W,   db = column sums of dY,   core G~ = V^T (dY^T X) U   [r, c]
///
/// Borrows W and b, which must outlive it. W is trained by `apply`; b is not: the engine's own
/// optimizer trains it with the db of `backward`. Several backward passes add up until `clear`.
/// Without a basis both sides are identities and the core is dW itself. A layer neither moves nor
/// is copied, since groups refer to it: keep layers in a std::deque, or behind std::unique_ptr.
///
/// One optimizer step:
///
///     auto saved = layer.forward(ctx, x, y);
///     layer.backward(ctx, dy, saved, dx, db);
///     layer.select(ctx, TopK{28000}, s);
///     adam.step(ctx, s, {.learning_rate = 1e-4}, d);
///     layer.apply(ctx, d);
///     layer.clear();
///
/// T = bfloat16 or float16: W, b, x, y, dY, dX and x U are stored in T; the sum of the gradients,
/// basis, core, updates and db are in C = compute_t<T> = float. W is then the rounded copy of a
/// master in C, to which updates go: W = round(master) after construction and apply. Every sum is
/// float's and rounded once where its result is a T. Otherwise C is T. Source: the paper, section 3
/// and Table 2; the plans are described in docs/math.md.
template <class T, Backend B = DefaultBackend>
class SparseGradLinear {
  static_assert(
      is_parameter_type<T>,
      "T, the type of weight and tokens, must be float, double, sparsegrad::bfloat16 or sparsegrad::float16");
  static_assert(
      detail::stores_parameters<T, B>,
      "layers of bfloat16 or float16 need a backend with the primitives of LowPrecisionBackend, as all of "
      "the library's backends have them");

 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;

  /// `weight` is [out, in] or, by option, [in, out]; `bias` [out] or null, read by forward alone.
  /// Throws ShapeError when the weight is empty, ValueError for one of 16 bits, which needs a
  /// master.
  SparseGradLinear(Context& ctx, MatrixView<T> weight, const T* bias, LinearOptions options = {})
      : SparseGradLinear(ctx, TrainedWeight<T>(weight, options.layout), bias, options) {}

  /// The same for T of 16 bits, with the master of the weight: a matrix of the weight's shape and
  /// layout, any stride, borrowed like the weight, which becomes the rounded master here. Throws
  /// ShapeError when the shapes differ.
  SparseGradLinear(Context& ctx, MatrixView<T> weight, MatrixView<C> master, const T* bias,
                   LinearOptions options = {}) requires(is_low_precision<T>)
      : SparseGradLinear(ctx, TrainedWeight<T>(weight, master, options.layout), bias, options) {
    round_master(ctx);
  }
  /// The gradient alone, of a weight W [out, in] that is kept elsewhere: y, dX and the update of W
  /// are the caller's, who gives a group a function for it (SparseGradGroup::add). Throws ShapeError
  /// unless out > 0 and in > 0.
  SparseGradLinear(Context& ctx, index_t out, index_t in, LinearOptions options = {})
      : SparseGradLinear(ctx, TrainedWeight<T>::elsewhere(out, in), nullptr, options) {}
  ~SparseGradLinear();
  SparseGradLinear(const SparseGradLinear&) = delete;
  SparseGradLinear& operator=(const SparseGradLinear&) = delete;

  /// Rows of dW.
  index_t out_extent() const { return gradient_.out_extent(); }
  /// Columns of dW.
  index_t in_extent() const { return gradient_.in_extent(); }
  /// The basis; never null.
  const std::shared_ptr<const Basis>& basis() const { return gradient_.basis(); }
  /// The order of the products.
  Plan plan() const { return gradient_.plan(); }
  /// The options that it was made with.
  const LinearOptions& options() const { return options_; }
  /// What picks the plan and the order of the weight's update.
  const CostModel& cost_model() const { return gradient_.cost_model(); }
  /// The precision of the products of basis and finished gradient, and of the weight's update.
  RotationPrecision rotations() const { return gradient_.rotations(); }
  /// The weight, as stored.
  MatrixView<T> weight() const { return weight_.weight; }
  /// What updates go to: the master of a weight of 16 bits, else the weight itself.
  MatrixView<C> master() const { return weight_.master; }
  /// The weight, for a group.
  const TrainedWeight<T>& trained_weight() const { return weight_; }
  /// From now on weight and bias lie at another address, with the same extents: an engine has moved
  /// its parameters. Groups follow. Nothing is copied: the numbers must be there. Throws ShapeError.
  void rebind(MatrixView<T> weight, const T* bias) {
    weight_.rebind(TrainedWeight<T>(weight, options_.layout));
    bias_ = bias;
  }
  /// The same for a weight of 16 bits, with its master.
  void rebind(MatrixView<T> weight, MatrixView<C> master, const T* bias) requires(is_low_precision<T>) {
    weight_.rebind(TrainedWeight<T>(weight, master, options_.layout));
    bias_ = bias;
  }
  /// W = round(master): after the caller has written to the master himself. Nothing where there is
  /// none.
  void round_master(Context& ctx) { weight_.template round<B>(ctx); }
  /// The bias [out], borrowed; null when there is none.
  const T* bias() const { return bias_; }
  /// Where the layer's gradient is summed.
  CoreGradient<T, B>& gradient() { return gradient_; }
  /// The source of the core gradient, to read.
  const CoreGradient<T, B>& gradient() const { return gradient_; }
  /// Whether there is a gradient: from the first backward, add_gradient, core or select until
  /// clear.
  bool accumulating() const { return gradient_.accumulating(); }
  /// Bytes of the gradient. The basis is shared and not counted.
  index_t gradient_bytes() const { return gradient_.bytes(); }

  /// CoreGradient::set_basis, set_plan.
  void set_basis(Context& ctx, std::shared_ptr<const Basis> basis, std::optional<Plan> plan = {});
  /// Sets the order of the products; without one the cost model chooses for the workload.
  void set_plan(Context& ctx, std::optional<Plan> plan, Workload workload = {});

  /// After this no call of a step with up to `max_tokens` tokens allocates. `update_capacity`: the
  /// most entries of an update (0: the whole core). Throws ValueError when one of them is negative,
  /// or more than can be counted.
  void reserve(Context& ctx, index_t max_tokens, index_t update_capacity = 0);

  /// Columns of the memory that `forward` wants for x U: CoreGradient::kept_cols.
  index_t kept_cols() const { return gradient_.kept_cols(); }

  /// y = x W^T + b, X [tokens, in], Y [tokens, out]. `keep` [tokens, kept_cols()] receives x U
  /// where kept_cols() > 0; without it x is kept. What the result refers to must live until its
  /// backward. Throws ShapeError, and ValueError when y or keep overlaps what is read, before
  /// anything is written.
  SavedInput<T> forward(Context& ctx, ConstMatrixView<T> x, MatrixView<T> y, MatrixView<T> keep = {}) const;

  /// dX = dY W (written, or added to by `mode`; skipped when empty), db += column sums of dY
  /// (skipped when null), and the layer's gradient += that of these tokens. dX may lie where X was.
  /// Throws ShapeError; ValueError when dX or db overlaps dY, W, b or the other; StateError after
  /// core() or select() until clear(), or in another layer's turn of a shared gradient memory.
  /// Nothing has changed then.
  void backward(Context& ctx, ConstMatrixView<T> dy, const SavedInput<T>& saved, MatrixView<T> dx, C* db,
                InputGradient mode = InputGradient::overwrite);

  /// Adds a weight gradient that the engine computed itself, dW [out, in] in C (also for a weight
  /// stored [in, out]), by a copy. An engine that has W and dW and no use for forward and backward
  /// spares it: SparseGradGroup::add_weight. Throws ShapeError, StateError as backward.
  void add_gradient(Context& ctx, ConstMatrixView<C> dw);

  /// The finished core gradient [r, c], contiguous, to be changed in place (an all-reduce,
  /// clipping) until `select`. Further calls return the same view until `clear`. Without any
  /// backward it is 0. Throws StateError in another layer's turn of a shared gradient memory.
  MatrixView<C> core(Context& ctx);

  /// Writes the kept entries of the core to `s` [r, c], as select_entries.
  template <class S>
  requires Selector<std::remove_reference_t<S>, C, B> SelectReport
  select(Context& ctx, S&& selector, SparseGradient<C, B>& s, NonFinite policy = NonFinite::raise) {
    require_shape("sparse gradient", s.rows(), s.cols(), basis()->rows(), basis()->cols(),
                  "rows x cols of the core");
    return select_entries<C, B>(ctx, selector, core(ctx), s, policy);
  }

  /// W <- (1 - decay) W + V D U^T: update_weight.
  void apply(Context& ctx, const SparseGradient<C, B>& d, double decay = 0);

  /// Forgets the gradient: the next backward starts a new sum, and a shared gradient memory is
  /// free.
  void clear() { gradient_.clear(); }
  /// Forgets the gradient.
  void clear(Context&) { gradient_.clear(); }

 private:
  SparseGradLinear(Context& ctx, const TrainedWeight<T>& weight, const T* bias, const LinearOptions& options);

  void require_weight(const char* call) const {
    if (!weight_.empty()) return;
    throw StateError(std::string(call) +
                     ": the layer's weight is kept elsewhere, expected its product there: the layer has the "
                     "gradient alone");
  }

  TrainedWeight<T> weight_;
  const T* bias_ = nullptr;
  LinearOptions options_;
  CoreGradient<T, B> gradient_;
};

template <class T, Backend B>
void SparseGradLinear<T, B>::set_basis(Context& ctx, std::shared_ptr<const Basis> basis,
                                       std::optional<Plan> plan) {
  gradient_.set_basis(ctx, std::move(basis), plan);
}

template <class T, Backend B>
void SparseGradLinear<T, B>::set_plan(Context& ctx, std::optional<Plan> plan, Workload workload) {
  gradient_.set_plan(ctx, plan, workload);
  options_.plan = plan;
  options_.workload = workload;
}

template <class T, Backend B>
void SparseGradLinear<T, B>::reserve(Context& ctx, index_t max_tokens, index_t update_capacity) {
  const index_t core = basis()->rows() * basis()->cols();
  if (update_capacity < 0 || update_capacity > core) {
    throw ValueError("update_capacity is " + std::to_string(update_capacity) +
                     ", expected 0 <= update_capacity <= " + std::to_string(core));
  }
  const index_t update =
      add_expanded_scratch<C, B>(ctx, *basis(), update_capacity > 0 ? update_capacity : core, rotations());
  ctx.scratch().reserve((std::max)(gradient_.scratch_bytes(ctx, max_tokens), update) + (index_t{1} << 20));
  gradient_.reserve(ctx, max_tokens);
}

template <class T, Backend B>
SavedInput<T> SparseGradLinear<T, B>::forward(Context& ctx, ConstMatrixView<T> x, MatrixView<T> y,
                                              MatrixView<T> keep) const {
  require_shape("X", x.rows, x.cols, x.rows, in_extent(), "tokens x in");
  require_shape("Y", y.rows, y.cols, x.rows, out_extent(), "tokens x out");
  require_weight("forward");
  require_forward_apart<T>(weight_.weight, bias_, x, y, keep);
  const SavedInput<T> saved = gradient_.save(ctx, x, keep);
  linear_forward<B, T>(ctx, weight_.weight, weight_.layout, bias_, x, y);
  return saved;
}

template <class T, Backend B>
void SparseGradLinear<T, B>::backward(Context& ctx, ConstMatrixView<T> dy, const SavedInput<T>& saved,
                                      MatrixView<T> dx, C* db, InputGradient mode) {
  if (!dx.empty()) {
    require_shape("dX", dx.rows, dx.cols, dy.rows, in_extent(), "tokens x in");
    require_weight("backward");
  }
  require_backward_apart<T>(weight_.empty() ? MatrixView<T>() : weight_.weight, bias_, dy, dx, db);
  gradient_.add_tokens(ctx, dy, saved);
  if (db != nullptr && dy.rows > 0) B::template column_sums<T>(ctx, dy, db);
  if (!dx.empty()) linear_input_gradient<B, T>(ctx, weight_.weight, weight_.layout, dy, mode, dx);
}

template <class T, Backend B>
void SparseGradLinear<T, B>::add_gradient(Context& ctx, ConstMatrixView<C> dw) {
  gradient_.add(ctx, dw);
}

template <class T, Backend B>
auto SparseGradLinear<T, B>::core(Context& ctx) -> MatrixView<C> {
  return gradient_.own_core(ctx);
}

template <class T, Backend B>
void SparseGradLinear<T, B>::apply(Context& ctx, const SparseGradient<C, B>& d, double decay) {
  require_weight("apply");
  update_weight<T, B>(ctx, weight_, *basis(), d, decay, cost_model(), rotations());
}

template <class T, Backend B>
SparseGradLinear<T, B>::SparseGradLinear(Context& ctx, const TrainedWeight<T>& weight, const T* bias,
                                         const LinearOptions& options)
    : weight_(weight),
      bias_(bias),
      options_(options),
      gradient_(ctx, weight.out_extent(), weight.in_extent(),
                {.plan = options.plan,
                 .workload = options.workload,
                 .cost_model = options.cost_model,
                 .rotations = options.rotations}) {}

template <class T, Backend B>
SparseGradLinear<T, B>::~SparseGradLinear() = default;

}  // namespace sparsegrad::SPARSEGRAD_ABI
