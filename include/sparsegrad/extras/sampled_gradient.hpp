// SampledGradient: the gradient at chosen entries of the core, without the core; and a linear layer
// on it.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "../core_gradient.hpp"
#include "../core_source.hpp"
#include "../default_backend.hpp"
#include "../selector.hpp"
#include "../sparse_gradient.hpp"
#include "../trained_weight.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Sums a step's gradients at the entries of a support, by sampled products (SDDMM); no core is
/// formed.
///
/// S(a, b) = sum over tokens t of (dY V)(t, a) (X U)(t, b). Memory: one number an entry. The
/// support belongs to one basis: to change either, make another object.
///
///     SampledGradient<float> gradient(ctx, basis, support);
///     gradient.add_tokens(ctx, dy, x);
///     gradient.select(ctx, s);
///
/// A group takes S as it is and asks no selector.
template <class T, Backend B = DefaultBackend>
class SampledGradient final : public CoreSource<compute_t<T>, B> {
 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// How a basis is held.
  using BasisPointer = std::shared_ptr<const Basis>;
  /// What a basis is fitted from.
  using Accumulator = HosvdAccumulator<C, B>;

  /// `support` [r, c] of the basis's core, copied; its values have no meaning. Throws ShapeError;
  /// ValueError unless its positions rise strictly and lie in the core.
  SampledGradient(Context& ctx, BasisPointer basis, const SparseGradient<C, B>& support)
      : basis_(std::move(basis)), sum_(ctx, support.rows(), support.cols(), support.count()) {
    require_shape("support", support.rows(), support.cols(), basis_->rows(), basis_->cols(),
                  "rows x cols of the core");
    sum_.copy_support(ctx, support);
    detail::require_positions<C, B>(ctx, sum_, "the caller of SampledGradient");
    if constexpr (is_low_precision<T>) low_precision_ = &basis_->template low_precision<T>(ctx);
  }
  SampledGradient(const SampledGradient&) = delete;
  SampledGradient& operator=(const SampledGradient&) = delete;

  index_t out_extent() const override { return basis_->out_extent(); }
  /// Columns of dW.
  index_t in_extent() const override { return basis_->in_extent(); }
  const BasisPointer& basis() const override { return basis_; }
  /// The order of the products.
  Plan plan() const override { return {SideOrder::project_first, SideOrder::project_first}; }
  /// The entries that are computed.
  const SparseGradient<C, B>& support() const { return sum_; }
  bool accumulating() const override { return open_; }
  bool finished() const override { return false; }
  /// Whether dW itself is formed.
  bool forms_weight_gradient() const override { return false; }
  bool selects() const override { return true; }
  index_t bytes() const override { return sum_.bytes(); }
  index_t element_count() const override { return sum_.count(); }

  /// Throws StateError unless it is the basis that the support was chosen in (as after restoring a
  /// state).
  void set_basis(Context&, BasisPointer basis, std::optional<Plan> = {}) override {
    this->require_idle("set_basis");
    if (basis != nullptr && basis->rows() == basis_->rows() && basis->cols() == basis_->cols() &&
        basis->out_extent() == out_extent() && basis->in_extent() == in_extent()) {
      basis_ = std::move(basis);
      return;
    }
    refuse("set_basis", "its support belongs to another basis");
  }
  void require_new_basis(const char* call) const override {
    refuse(call, "its support belongs to another basis");
  }
  void form_weight_gradient(Context&, bool on) override {
    if (on) refuse("collect", "it forms no weight gradient");
  }
  void require_weight_gradient(const char* call) const override {
    refuse(call, "it forms no weight gradient");
  }

  /// Adds the tokens' part: dY [tokens, out], X [tokens, in]. Throws ShapeError.
  void add_tokens(Context& ctx, ConstMatrixView<T> dy, ConstMatrixView<T> x) {
    require_shape("dY", dy.rows, dy.cols, x.rows, out_extent(), "tokens x out");
    require_shape("X", x.rows, x.cols, dy.rows, in_extent(), "tokens x in");
    if (!open_) B::template zero<C>(ctx, sum_.values(), sum_.count());
    open_ = true;
    auto frame = ctx.frame();
    const MatrixView<const T> left =
        detail::projected_tokens<T, B>(ctx, frame, token_basis().out(), dy, basis_->rows());
    const MatrixView<const T> right =
        detail::projected_tokens<T, B>(ctx, frame, token_basis().in(), x, basis_->cols());
    if (!sum_.dense()) {
      return B::template sampled_product<T>(ctx, left, right, sum_.indices(), sum_.count(), basis_->cols(),
                                            sum_.values());
    }
    if constexpr (is_low_precision<T>) {
      B::template gemm_wide<T>(ctx, Op::transpose, Op::none, C(1), left, right, C(1), sum_.matrix());
    } else {
      B::template gemm<T>(ctx, Op::transpose, Op::none, C(1), left, right, C(1), sum_.matrix());
    }
  }
  /// Adds the support's entries of a weight gradient that the engine computed, dW [out, in]. Throws
  /// ShapeError.
  void add(Context& ctx, ConstMatrixView<C> dw) {
    require_shape("dW", dw.rows, dw.cols, out_extent(), in_extent(), "out x in");
    if (!open_) B::template zero<C>(ctx, sum_.values(), sum_.count());
    open_ = true;
    auto frame = ctx.frame();
    const MatrixView<C> core = frame.template matrix<C>(basis_->rows(), basis_->cols());
    basis_->project(ctx, dw, core);
    const MatrixView<C> sums(sum_.values(), 1, sum_.count());
    if (sum_.dense())
      return B::template add<C>(ctx, C(1), MatrixView<const C>(core.data, 1, core.size()), sums);
    C* values = frame.template take<C>(sum_.count());
    B::template gather<C>(ctx, core.data, sum_.indices(), sum_.count(), values);
    B::template add<C>(ctx, C(1), MatrixView<const C>(values, 1, sum_.count()), sums);
  }

  /// The sums at the support, `s` [r, c] with room for them. Without a gradient they are 0.
  void select(Context& ctx, SparseGradient<C, B>& s) override {
    if (!open_) B::template zero<C>(ctx, sum_.values(), sum_.count());
    open_ = true;
    s.copy_support(ctx, sum_);
    B::template copy<C>(ctx, MatrixView<const C>(sum_.values(), 1, sum_.count()),
                        MatrixView<C>(s.values(), 1, s.count()));
  }

  /// Throws StateError: no weight gradient is formed.
  void add_to(Context&, Accumulator&, NonFinite) override { refuse("add_to", "it forms no weight gradient"); }
  MatrixView<C> weight_gradient(Context&) override { refuse("weight_gradient", "it forms none"); }
  MatrixView<const C> core(Context&) override { refuse("core", "it forms none; use select"); }
  MatrixView<C> own_core(Context&) override { refuse("core", "it forms none; use select"); }
  void clear() override { open_ = false; }
  void reserve(Context& ctx, index_t max_tokens) override {
    const index_t wide = (std::max)(out_extent(), in_extent());
    detail::require_tokens(max_tokens, wide);
    ctx.scratch().reserve(
        3 * max_tokens * wide * static_cast<index_t>(sizeof(T)) +
        B::template scratch_bound<C>(ctx, (std::max)(max_tokens * wide, out_extent() * in_extent())));
  }

 private:
  [[noreturn]] static void refuse(const char* call, const char* why) {
    throw StateError(std::string(call) + ": the gradient is that at a fixed support alone; " + why);
  }
  const auto& token_basis() const {
    if constexpr (is_low_precision<T>) {
      return *low_precision_;
    } else {
      return *basis_;
    }
  }

  BasisPointer basis_;
  const LowPrecisionBasis<T, B>* low_precision_ = nullptr;
  SparseGradient<C, B> sum_;
  bool open_ = false;
};

/// A linear layer y = x W^T + b whose weight gradient is wanted at a fixed support alone. As
/// SparseGradLinear otherwise; joins a group by `add`.
template <class T, Backend B = DefaultBackend>
class FixedSupportLinear {
  static_assert(
      is_parameter_type<T>,
      "T, the type of weight and tokens, must be float, double, sparsegrad::bfloat16 or sparsegrad::float16");

 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;

  /// Borrows weight and bias [out] (may be null). Throws ShapeError when the basis is not for them.
  FixedSupportLinear(Context& ctx, TrainedWeight<T> weight, const T* bias,
                     std::shared_ptr<const TuckerBasis<C, B>> basis, const SparseGradient<C, B>& support)
      : weight_(weight), bias_(bias), gradient_(ctx, std::move(basis), support) {
    require_shape("basis", gradient_.out_extent(), gradient_.in_extent(), weight.out_extent(),
                  weight.in_extent(), "out x in of the weight");
  }

  /// The gradient's source, for a group.
  SampledGradient<T, B>& gradient() { return gradient_; }
  /// The weight, for a group.
  const TrainedWeight<T>& trained_weight() const { return weight_; }

  /// SparseGradLinear::rebind.
  void rebind(const TrainedWeight<T>& weight, const T* bias) {
    weight_.rebind(weight);
    bias_ = bias;
  }

  /// y = x W^T + b. Throws ShapeError; ValueError when y overlaps x, W or b.
  void forward(Context& ctx, ConstMatrixView<T> x, MatrixView<T> y) const {
    require_shape("X", x.rows, x.cols, x.rows, weight_.in_extent(), "tokens x in");
    require_shape("Y", y.rows, y.cols, x.rows, weight_.out_extent(), "tokens x out");
    require_forward_apart<T>(weight_.weight, bias_, x, y, {});
    linear_forward<B, T>(ctx, weight_.weight, weight_.layout, bias_, x, y);
  }
  /// dX = dY W (or added to, by `mode`; skipped when empty), db += column sums of dY (skipped when
  /// null), gradient += that of these tokens. Throws ShapeError; ValueError when dX or db overlaps
  /// dY, W, b or the other.
  void backward(Context& ctx, ConstMatrixView<T> dy, ConstMatrixView<T> x, MatrixView<T> dx, C* db,
                InputGradient mode = InputGradient::overwrite) {
    if (!dx.empty()) require_shape("dX", dx.rows, dx.cols, dy.rows, weight_.in_extent(), "tokens x in");
    require_backward_apart<T>(weight_.weight, bias_, dy, dx, db);
    gradient_.add_tokens(ctx, dy, x);
    if (db != nullptr && dy.rows > 0) B::template column_sums<T>(ctx, dy, db);
    if (!dx.empty()) linear_input_gradient<B, T>(ctx, weight_.weight, weight_.layout, dy, mode, dx);
  }

 private:
  TrainedWeight<T> weight_;
  const T* bias_ = nullptr;
  SampledGradient<T, B> gradient_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
