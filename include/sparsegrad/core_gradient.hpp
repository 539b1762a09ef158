// CoreGradient: from tokens to the core gradient V^T dY^T X U, in the order that a plan says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "core/overlap.hpp"
#include "core_projection.hpp"
#include "core_source.hpp"
#include "default_cost_model.hpp"
#include "gradient_memory.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// What `add_tokens` needs of the tokens that `save` saw: x itself, or x U in the memory that the
/// caller gave. x U from before a set_basis is of no use afterwards: add_tokens throws. Layers that
/// share a basis may share it.
template <class T>
struct SavedInput {
  /// The tokens X [tokens, in], or their projection X U.
  MatrixView<const T> input;
  /// Whether `input` is X U.
  bool projected = false;
  /// TuckerBasis::serial of U's basis; 0 for x itself.
  std::uint64_t basis = 0;
};

/// Options of a CoreGradient.
struct CoreGradientOptions {
  std::optional<Plan> plan = {};             ///< overrides the cost model
  Workload workload = {};                    ///< what the cost model assumes
  std::optional<CostModel> cost_model = {};  ///< picks the plan; without: default_cost_model
  /// Of the products of basis and finished gradient; full where it is not available
  /// (available_rotations). Without: default_rotations.
  std::optional<RotationPrecision> rotations = {};
};

/// Sums a step's gradients of one weight matrix and gives their core in a basis:
///
///     G~ = V^T (sum of dY^T X) U    [r, c],   X [tokens, in], dY [tokens, out]
///
/// Each side is projected token by token, or once at the end: what the plan says, which a cost
/// model picks. Owns the sum in the form that the plan needs, or takes turns in a shared
/// GradientMemory. Starts with the identity basis, whose core is dW itself; the memory of that is
/// taken by the first gradient, or by `reserve`.
///
///     CoreGradient<float> gradient(ctx, out, in);
///     gradient.set_basis(ctx, basis);
///     gradient.add_tokens(ctx, dy, gradient.save(ctx, x));    // any number of micro-batches
///     MatrixView<float> core = gradient.own_core(ctx);
///     gradient.clear();
///
/// T = bfloat16 or float16: tokens are stored in T; sum, basis and core are in C = float. A plan
/// that projects tokens first rounds X U and dY V to T (docs/math.md). Source: the paper, section 3
/// and Table 2; plans: docs/math.md.
template <class T, Backend B = DefaultBackend>
class CoreGradient final : public CoreSource<compute_t<T>, B> {
  static_assert(
      is_parameter_type<T>,
      "T, the type of weight and tokens, must be float, double, sparsegrad::bfloat16 or sparsegrad::float16");

 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The interface that it implements.
  using Source = CoreSource<C, B>;
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// How a basis is held.
  using BasisPointer = std::shared_ptr<const Basis>;
  /// What a basis is fitted from.
  using Accumulator = HosvdAccumulator<C, B>;

  /// Throws ShapeError unless out > 0 and in > 0, and dW has less than 2^63 bytes; ValueError for a
  /// workload or cost model out of range.
  CoreGradient(Context& ctx, index_t out, index_t in, CoreGradientOptions options = {})
      : out_(out),
        in_(in),
        options_(std::move(options)),
        rotations_(options_.rotations ? available_rotations<C, B>(ctx, *options_.rotations)
                                      : default_rotations<T, B>(ctx)),
        model_(options_.cost_model ? *options_.cost_model : default_cost_model<T, B>(ctx, rotations_)) {
    detail::require_extents(out, in);
    options_.workload.require_valid();
    model_.require_valid();
    set_basis(ctx, nullptr);
  }
  CoreGradient(const CoreGradient&) = delete;
  CoreGradient& operator=(const CoreGradient&) = delete;

  index_t out_extent() const override { return out_; }
  /// Columns of dW.
  index_t in_extent() const override { return in_; }
  const BasisPointer& basis() const override { return basis_; }
  /// The order of the products.
  Plan plan() const override { return plan_; }
  /// The options that it was made with.
  const CoreGradientOptions& options() const { return options_; }
  /// The precision of the products of basis and finished gradient.
  RotationPrecision rotations() const { return rotations_; }
  /// The model that picks the plan.
  const CostModel& cost_model() const { return model_; }
  bool accumulating() const override { return state_ != State::empty; }
  bool finished() const override { return state_ == State::finished; }
  /// Whether dW itself is formed.
  bool forms_weight_gradient() const override { return forms_weight_gradient_; }
  index_t bytes() const override { return memory_.bytes(); }
  index_t element_count() const override { return count_of(*basis_, plan_); }
  /// The basis as products with tokens use it: rounded to T where T is a 16-bit type.
  const auto& token_basis() const {
    if constexpr (is_low_precision<T>) {
      return *low_precision_;
    } else {
      return *basis_;
    }
  }

  void set_basis(Context& ctx, BasisPointer basis, std::optional<Plan> plan = {}) override {
    if (basis == nullptr) basis = Basis::identity(out_, in_);
    this->require_basis(*basis);
    this->require_idle("set_basis");
    if (!plan) plan = options_.plan;
    const Order order = order_of(*basis, plan, options_.workload, forms_weight_gradient_);
    require_room(order);
    if constexpr (is_low_precision<T>) low_precision_ = &basis->template low_precision<T>(ctx);
    (void)detail::BasisRotations<C, B>(ctx, *basis, rotations_);  // what a step then finds made
    basis_ = std::move(basis);
    take_order(ctx, order);
  }

  /// Chooses the plan anew for another workload, or takes the given one. Throws StateError while a
  /// gradient is held, ValueError for a workload out of range.
  void set_plan(Context& ctx, std::optional<Plan> plan, Workload workload = {}) {
    this->require_idle("set_plan");
    workload.require_valid();
    const Order order = order_of(*basis_, plan, workload, forms_weight_gradient_);
    require_room(order);
    options_.plan = plan;
    options_.workload = workload;
    take_order(ctx, order);
  }

  /// To be set before `save`: X is then kept and the sum is dW. Off chooses the plan anew.
  void form_weight_gradient(Context& ctx, bool on) override {
    this->require_idle("form_weight_gradient");
    const Order order = order_of(*basis_, options_.plan, options_.workload, on);
    require_room(order);
    forms_weight_gradient_ = on;
    take_order(ctx, order);
  }

  /// Uses `memory`, which grows to what the present and later plans need, in place of memory of its
  /// own; null: own memory again. Throws StateError while a gradient is held, or when the memory
  /// must grow in another's turn.
  void share_memory(Context& ctx, std::shared_ptr<GradientMemory<C, B>> memory) override {
    this->require_idle("share_memory");
    require_own_memory();
    const index_t count = element_count();
    if (memory != nullptr) memory->require_room(count);
    turn_.reset();
    shared_ = std::move(memory);
    take_order(ctx, {plan_, count});
  }

  void reserve(Context& ctx, index_t max_tokens) override {
    ctx.scratch().reserve(scratch_bytes(ctx, max_tokens));
    if (shared_ != nullptr) shared_->require_room(element_count());
    take_memory(ctx);
  }
  /// Scratch memory that the calls of a step with up to `max_tokens` tokens take. Throws as
  /// reserve.
  index_t scratch_bytes(const Context& ctx, index_t max_tokens) const {
    const index_t element = static_cast<index_t>(sizeof(C));
    const index_t wide = (std::max)(out_, in_);
    detail::require_tokens(max_tokens, wide);
    const index_t rows = plan_.out == SideOrder::project_first ? basis_->rows() : 0;
    const index_t cols = plan_.in == SideOrder::project_first ? basis_->cols() : 0;
    const index_t sums = element_count();
    // Tokens in the basis; halves of a dW that `add` is given; the sum while it is projected.
    index_t bytes = max_tokens * (rows + cols) * static_cast<index_t>(sizeof(T)) +
                    (rows * in_ + sum_rows() * cols + sums) * element +
                    detail::split_bytes((std::max)(sums, out_ * in_), bfloat16_terms(rotations_)) +
                    B::template scratch_bound<C>(ctx, (std::max)(max_tokens * wide, sums)) + 4096;
    if constexpr (is_low_precision<T>) {
      bytes += element * (std::max)(low_precision_->out().scratch_elements(max_tokens),
                                    low_precision_->in().scratch_elements(max_tokens));
    }
    return bytes;
  }

  /// Columns of the memory that `save` wants for x U; 0 when it keeps x. Only a projected input
  /// that is smaller than x itself is kept in its place.
  index_t kept_cols() const {
    const bool projects = plan_.in == SideOrder::project_first;
    return projects && basis_->cols() < in_ ? basis_->cols() : 0;
  }

  /// Tokens X [tokens, in] of which `add_tokens` will want to know. `keep` [tokens, kept_cols()]
  /// receives x U where kept_cols() > 0; without it x is kept. What the result refers to must live
  /// until then. Throws ShapeError; ValueError when `keep` overlaps x.
  SavedInput<T> save(Context& ctx, ConstMatrixView<T> x, MatrixView<T> keep = {}) const {
    require_shape("X", x.rows, x.cols, x.rows, in_, "tokens x in");
    if (kept_cols() == 0 || keep.cols == 0) return {x};
    require_shape("keep", keep.rows, keep.cols, x.rows, kept_cols(), "tokens x kept_cols()");
    require_apart("the memory for x U", keep, "X", x);
    token_basis().in().project_columns(ctx, x, keep);
    return {keep, true, basis_->serial()};
  }

  /// Throws what add_tokens would throw for these arguments: ShapeError; StateError after the core
  /// was asked for, until `clear`.
  void check_tokens(ConstMatrixView<T> dy, const SavedInput<T>& saved) const {
    require_shape("dY", dy.rows, dy.cols, saved.input.rows, out_, "tokens x out");
    require_shape("saved input", saved.input.rows, saved.input.cols, dy.rows,
                  saved.projected ? basis_->cols() : in_,
                  saved.projected ? "tokens x rank of the input side" : "tokens x in");
    require_open("backward");
    if (saved.projected && plan_.in != SideOrder::project_first) {
      throw StateError(
          "backward: the saved input is x U, but the layer needs x; it was made before collect or set_plan");
    }
    if (saved.projected && saved.basis != basis_->serial()) {
      throw StateError(
          "backward: the saved input is x U in another basis than the layer's; it was made before set_basis "
          "(or refresh): call forward again");
    }
  }

  /// Adds dY^T X of these tokens, dY [tokens, out]. Throws what check_tokens throws, and StateError
  /// in another layer's turn of a shared gradient memory. Nothing has changed then.
  void add_tokens(Context& ctx, ConstMatrixView<T> dy, const SavedInput<T>& saved) {
    check_tokens(dy, saved);
    const bool first = begin(ctx);
    auto frame = ctx.frame();
    MatrixView<const T> left = dy;
    if (plan_.out == SideOrder::project_first)
      left = detail::projected_tokens<T, B>(ctx, frame, token_basis().out(), left, basis_->rows());
    MatrixView<const T> right = saved.input;
    if (plan_.in == SideOrder::project_first && !saved.projected)
      right = detail::projected_tokens<T, B>(ctx, frame, token_basis().in(), right, basis_->cols());
    const C beta = first ? C(0) : C(1);
    if constexpr (is_low_precision<T>) {
      B::template gemm_wide<T>(ctx, Op::transpose, Op::none, C(1), left, right, beta, sum());
    } else {
      B::template gemm<T>(ctx, Op::transpose, Op::none, C(1), left, right, beta, sum());
    }
    state_ = State::open;
  }

  /// Adds a weight gradient that the engine computed, dW [out, in] in C, by a copy. (GivenGradient
  /// makes none.) Throws ShapeError; StateError as add_tokens.
  void add(Context& ctx, ConstMatrixView<C> dw) {
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
    if (first) {
      B::template copy<C>(ctx, g, sum());
    } else {
      B::template add<C>(ctx, C(1), g, sum());
    }
    state_ = State::open;
  }

  /// Throws StateError unless form_weight_gradient is on and the core was not yet asked for, or in
  /// another's turn.
  MatrixView<C> weight_gradient(Context& ctx) override {
    if (!forms_weight_gradient_ || finished() || state_ == State::broken) {
      throw StateError(
          "weight_gradient: dW is there while form_weight_gradient is on, and before the core is asked for");
    }
    fill_empty(ctx);
    state_ = State::closed;
    return sum();
  }
  /// Adds dW to the sums from which a basis is fitted; see CoreSource::add_to.
  void add_to(Context& ctx, Accumulator& sums, NonFinite policy) override {
    const MatrixView<const C> dw = weight_gradient(ctx);
    if (policy == NonFinite::raise) return sums.add(ctx, dw);
    (void)sums.add_if_finite(ctx, dw);
  }

  MatrixView<const C> core(Context& ctx) override { return own_core(ctx); }
  /// Throws StateError in another layer's turn of a shared gradient memory.
  MatrixView<C> own_core(Context& ctx) override {
    if (finished()) return MatrixView<C>(core_, basis_->rows(), basis_->cols());
    if (state_ == State::broken) {
      throw StateError(
          "core: an earlier call failed while it projected the gradient in place; call clear and begin the "
          "step again");
    }
    fill_empty(ctx);
    const MatrixView<C> core(memory(), basis_->rows(), basis_->cols());
    state_ = State::broken;  // while it is neither the sum nor the core
    detail::project_in_place<C, B>(ctx, detail::BasisRotations<C, B>(ctx, *basis_, rotations_), plan_, model_,
                                   sum(), core);
    state_ = State::finished;
    core_ = core.data;
    return core;
  }

  std::optional<PendingCore<C, B>> pending_core() override {
    PendingCore<C, B> pending(*basis_, model_, plan_);
    if (!pending.possible() || rotations_ != RotationPrecision::full || shared_ != nullptr) return {};
    pending.ready = state_ == State::open || state_ == State::closed;
    pending.sum = sum();
    pending.core = MatrixView<C>(memory(), basis_->rows(), basis_->cols());
    pending.in_place = element_count();
    return pending;
  }
  std::shared_ptr<int> begin_core() override {
    state_ = State::broken;
    return loan_;
  }
  /// See CoreSource.
  void take_core(MatrixView<C> core, const std::shared_ptr<int>& loan) override {
    core_ = core.data;
    lent_by_ = loan;
    state_ = State::finished;
  }
  void clear() override {
    state_ = State::empty;
    turn_.reset();
    lent_by_.reset();
  }

 private:
  enum class State {
    empty,
    open,
    closed,    ///< dW was handed out: no more is added
    broken,    ///< projected in part
    finished,  ///< the core is there
  };

  /// A plan and the gradient memory that it needs.
  struct Order {
    Plan plan;
    index_t count = 0;
  };

  index_t sum_rows() const { return plan_.out == SideOrder::project_first ? basis_->rows() : out_; }
  index_t sum_cols() const { return plan_.in == SideOrder::project_first ? basis_->cols() : in_; }
  C* memory() { return shared_ != nullptr ? shared_->memory_.data() : memory_.data(); }
  MatrixView<C> sum() { return MatrixView<C>(memory(), sum_rows(), sum_cols()); }

  /// Begins the gradient unless there is one; whether it did. Throws StateError before anything has
  /// changed.
  bool begin(Context& ctx) {
    if (state_ != State::empty) return false;
    require_own_memory();
    auto turn = std::move(turn_);
    if (shared_ != nullptr && turn == nullptr) turn = GradientMemory<C, B>::begin(shared_, this->name());
    take_memory(ctx);
    turn_ = std::move(turn);
    return true;
  }
  /// The memory of the present plan, where it is not yet there.
  void take_memory(Context& ctx) {
    const index_t count = element_count();
    if (shared_ != nullptr) {
      shared_->grow(ctx, count);
    } else if (memory_.size() != count) {
      memory_.resize(ctx, count);
    }
  }
  /// A gradient of 0 where there is none.
  void fill_empty(Context& ctx) {
    if (!begin(ctx)) return;
    B::template zero<C>(ctx, memory(), sum().size());
    state_ = State::open;
  }

  Order order_of(const Basis& basis, const std::optional<Plan>& wanted, const Workload& workload,
                 bool forms_weight_gradient) const {
    const SideShape out = shape_of(basis.out());
    const SideShape in = shape_of(basis.in());
    Plan plan{SideOrder::multiply_first, SideOrder::multiply_first};
    if (!forms_weight_gradient) plan = wanted ? *wanted : choose_plan(out, in, workload, model_);
    if (out.kind == SideKind::identity) plan.out = SideOrder::multiply_first;
    if (in.kind == SideKind::identity) plan.in = SideOrder::multiply_first;
    return {plan, count_of(basis, plan)};
  }

  /// Elements of the sum, and of the core that takes its place.
  index_t count_of(const Basis& basis, const Plan& plan) const {
    const index_t rows = plan.out == SideOrder::project_first ? basis.rows() : out_;
    const index_t cols = plan.in == SideOrder::project_first ? basis.cols() : in_;
    return (std::max)(rows * cols, basis.rows() * basis.cols());
  }

  void require_own_memory() const {
    if (loan_.use_count() > 1)
      throw StateError("another layer's core stands in the memory of " + this->name() + "; clear the group");
  }
  void require_room(const Order& order) const {
    require_own_memory();
    if (shared_ != nullptr) shared_->require_room(order.count);
  }
  /// Takes the memory at once, but for the whole dW of a layer without a basis, which may be given
  /// one of far less memory before its first gradient comes.
  void take_order(Context& ctx, const Order& order) {
    plan_ = order.plan;
    if (shared_ != nullptr || memory_.size() != order.count) memory_.release();
    const bool rotates = basis_->out().rotates() || basis_->in().rotates();
    if (rotates || forms_weight_gradient_) take_memory(ctx);
  }
  void require_open(const char* call) const {
    if (state_ == State::empty || state_ == State::open) return;
    throw StateError(std::string(call) +
                     ": the core of this step is finished; call clear before the next backward");
  }

  index_t out_ = 0;
  index_t in_ = 0;
  CoreGradientOptions options_;
  RotationPrecision rotations_;
  CostModel model_;
  BasisPointer basis_;
  const LowPrecisionBasis<T, B>* low_precision_ = nullptr;  ///< of a 16-bit T; basis_ owns it
  Plan plan_;
  State state_ = State::empty;
  bool forms_weight_gradient_ = false;
  std::shared_ptr<GradientMemory<C, B>> shared_;  ///< null: memory_
  typename GradientMemory<C, B>::Turn turn_;
  Buffer<C, B> memory_;                                   ///< the step's sum, then the core
  std::shared_ptr<int> loan_ = std::make_shared<int>(0);  ///< others hold it while their core is in memory_
  C* core_ = nullptr;                                     ///< where the core stands, once it is finished
  std::shared_ptr<int> lent_by_;                          ///< held while that is memory of others
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
