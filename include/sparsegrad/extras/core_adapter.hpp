// CoreAdapter: a small trained matrix in a basis, beside a weight that stays as it is.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../core_gradient.hpp"
#include "../default_backend.hpp"
#include "../sparse_gradient.hpp"
#include "../trained_weight.hpp"
#include "../weight_update.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// A linear layer over a frozen weight, with a trained core matrix Delta [r, c] beside it:
///
///     y = x W^T + b + ((x U) Delta^T) V^T
///
/// Delta starts at 0 and is all that is trained: it is small, and can be merged into W, or sent to
/// whoever has the same W and basis. W is never written to but by `merge`; it may live elsewhere
/// (quantised, say), when forward and backward add the adapter's term alone. To train Delta, give
/// it to a group as a weight of its own; its gradient is the core:
///
///     CoreAdapter<float> adapter(ctx, {w, out, in}, nullptr, basis);
///     auto i = group.add_weight(ctx, adapter.delta(), "adapter");
///     for (;;) {
///       auto saved = adapter.forward(ctx, x, y);
///       adapter.backward(ctx, dy, saved, dx, nullptr);
///       group.set_gradient(i, adapter.core(ctx));
///       group.step(ctx, {.learning_rate = 1e-3});
///       adapter.clear();
///     }
///
/// T = bfloat16 or float16: tokens and W in T, Delta and its gradient in C = float.
/// Related: LoRA-XS (Balazy et al., 2024), a core between fixed factors.
template <class T, Backend B = DefaultBackend>
class CoreAdapter {
  static_assert(
      is_parameter_type<T>,
      "T, the type of weight and tokens, must be float, double, sparsegrad::bfloat16 or sparsegrad::float16");

 public:
  /// The type of sums, bases and updates.
  using C = compute_t<T>;
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// How a basis is held.
  using BasisPointer = std::shared_ptr<const Basis>;

  /// Over W [out, in] (or [in, out] by layout) and b [out] or null, both borrowed and read alone.
  /// Throws ShapeError when the basis's extents are not W's, ValueError when its rank is 0 on a
  /// side or it is null.
  CoreAdapter(Context& ctx, MatrixView<const T> weight, const T* bias, BasisPointer basis,
              WeightLayout layout = WeightLayout::out_in, CoreGradientOptions options = {})
      : CoreAdapter(ctx, std::move(basis), options) {
    const bool out_in = layout == WeightLayout::out_in;
    require_shape("basis", gradient_.out_extent(), gradient_.in_extent(), out_in ? weight.rows : weight.cols,
                  out_in ? weight.cols : weight.rows, "out x in of the weight");
    weight_ = weight;
    layout_ = layout;
    bias_ = bias;
  }
  /// Over a weight that lives elsewhere: forward adds the adapter's term to y alone, backward adds
  /// its term to dX.
  CoreAdapter(Context& ctx, BasisPointer basis, CoreGradientOptions options = {})
      : gradient_(ctx, required(basis).out_extent(), required(basis).in_extent(), options),
        basis_(std::move(basis)) {
    gradient_.set_basis(ctx, basis_);
    delta_.resize(ctx, rows() * cols());
  }
  CoreAdapter(const CoreAdapter&) = delete;
  CoreAdapter& operator=(const CoreAdapter&) = delete;

  /// The adapter's basis.
  const BasisPointer& basis() const { return basis_; }
  /// SparseGradLinear::rebind, of a weight of the extents and layout of before.
  void rebind(MatrixView<const T> weight, const T* bias) {
    require_shape("weight", weight.rows, weight.cols, weight_.rows, weight_.cols,
                  "extents of the weight before");
    weight_ = weight;
    bias_ = bias;
  }
  /// Where the gradient is summed. Another basis than Delta's makes forward, backward and core throw
  /// StateError.
  CoreGradient<T, B>& gradient() { return gradient_; }
  /// Delta [r, c], the trained matrix. Throws StateError while it is merged.
  MatrixView<C> delta() {
    require_apart("delta");
    return delta_.matrix(rows(), cols());
  }
  /// The trained core Delta [r, c].
  MatrixView<const C> delta() const { return delta_.matrix(rows(), cols()); }
  /// Whether the weight contains V Delta U^T.
  bool merged() const { return merged_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return gradient_.bytes() + delta_.bytes(); }
  /// Columns of the memory for x U that `forward` takes; 0 when it keeps x.
  index_t kept_cols() const { return gradient_.kept_cols(); }

  /// After this no call of a step with up to `max_tokens` tokens allocates.
  void reserve(Context& ctx, index_t max_tokens) {
    const index_t gradient = gradient_.scratch_bytes(ctx, max_tokens);
    const index_t wide = (std::max)(gradient_.out_extent(), gradient_.in_extent());
    const index_t rounded = is_low_precision<T> ? rows() * cols() : 0;
    // Tokens in both bases, and what a Hadamard side expands at a time.
    const index_t term = max_tokens * (rows() + cols() + wide) + rounded;
    ctx.scratch().reserve(gradient + term * static_cast<index_t>(sizeof(T)) + (index_t{1} << 20));
    gradient_.reserve(ctx, max_tokens);
  }

  /// y = x W^T + b + ((x U) Delta^T) V^T, as SparseGradLinear::forward; while merged without the
  /// last term. Without a weight of its own it adds the last term to y.
  SavedInput<T> forward(Context& ctx, ConstMatrixView<T> x, MatrixView<T> y, MatrixView<T> keep = {}) const {
    require_own_basis("forward");
    require_shape("X", x.rows, x.cols, x.rows, gradient_.in_extent(), "tokens x in");
    require_shape("Y", y.rows, y.cols, x.rows, gradient_.out_extent(), "tokens x out");
    require_forward_apart<T>(weight_, bias_, x, y, keep);
    const SavedInput<T> saved = gradient_.save(ctx, x, keep);
    if (weight_.data != nullptr) {
      linear_forward<B, T>(ctx, weight_, layout_, bias_, x, y);
    } else if (bias_ != nullptr) {
      B::template add_to_rows<T>(ctx, bias_, y);
    }
    if (merged_) return saved;
    auto frame = ctx.frame();
    const MatrixView<const T> xu =
        saved.projected ? saved.input : detail::projected_tokens<T, B>(ctx, frame, tokens().in(), x, cols());
    const MatrixView<const T> delta = token_delta(ctx, frame);
    if (!tokens().out().rotates()) {
      B::template gemm<T>(ctx, Op::none, Op::transpose, C(1), xu, delta, C(1), y);
      return saved;
    }
    const MatrixView<T> core_y = frame.template matrix<T>(x.rows, rows());
    B::template gemm<T>(ctx, Op::none, Op::transpose, C(1), xu, delta, C(0), core_y);
    tokens().out().expand_columns(ctx, core_y, C(1), y);
    return saved;
  }

  /// dX = dY W + ((dY V) Delta) U^T (added to by `mode`, and where the weight lives elsewhere;
  /// skipped when empty), db += column sums of dY (skipped when null), and the core's gradient.
  /// Throws as SparseGradLinear::backward.
  void backward(Context& ctx, ConstMatrixView<T> dy, const SavedInput<T>& saved, MatrixView<T> dx, C* db,
                InputGradient mode = InputGradient::overwrite) {
    require_own_basis("backward");
    if (!dx.empty()) require_shape("dX", dx.rows, dx.cols, dy.rows, gradient_.in_extent(), "tokens x in");
    require_backward_apart<T>(weight_, bias_, dy, dx, db);
    gradient_.add_tokens(ctx, dy, saved);
    if (db != nullptr && dy.rows > 0) B::template column_sums<T>(ctx, dy, db);
    if (dx.empty()) return;
    if (weight_.data != nullptr) linear_input_gradient<B, T>(ctx, weight_, layout_, dy, mode, dx);
    if (merged_) return;
    auto frame = ctx.frame();
    const MatrixView<const T> dyv = detail::projected_tokens<T, B>(ctx, frame, tokens().out(), dy, rows());
    const MatrixView<const T> delta = token_delta(ctx, frame);
    if (!tokens().in().rotates())
      return B::template gemm<T>(ctx, Op::none, Op::none, C(1), dyv, delta, C(1), dx);
    const MatrixView<T> core_x = frame.template matrix<T>(dy.rows, cols());
    B::template gemm<T>(ctx, Op::none, Op::none, C(1), dyv, delta, C(0), core_x);
    tokens().in().expand_columns(ctx, core_x, C(1), dx);
  }

  /// The gradient of Delta [r, c]; as SparseGradLinear::core. Throws StateError while merged: a
  /// Delta that changed then could not be taken out of W again.
  MatrixView<C> core(Context& ctx) {
    require_apart("core");
    require_own_basis("core");
    return gradient_.own_core(ctx);
  }
  /// Forgets the gradient.
  void clear() { gradient_.clear(); }

  /// Delta <- (1 - decay) Delta + D, for training without a group. Throws ShapeError, ValueError
  /// unless 0 <= decay <= 1, StateError while merged.
  void apply(Context& ctx, const SparseGradient<C, B>& d, double decay = 0) {
    require_shape("update D", d.rows(), d.cols(), rows(), cols(), "rows x cols of the core");
    require_decay(decay);
    require_apart("apply");
    const MatrixView<C> delta = delta_.matrix(rows(), cols());
    if (decay != 0) B::template scale<C>(ctx, static_cast<C>(1 - decay), delta);
    add_to_core(ctx, d, delta);
  }

  /// Delta's entries that are not 0, for a file or another process. Allocates.
  SparseGradient<C, B> export_delta(Context& ctx) const {
    std::vector<C> values(static_cast<std::size_t>(delta_.size()));
    B::template download<C>(ctx, delta_.data(), values.data(), delta_.size());
    std::vector<stored_index_t> index;
    std::vector<C> kept;
    for (std::size_t e = 0; e < values.size(); ++e) {
      if (values[e] == C(0)) continue;
      index.push_back(static_cast<stored_index_t>(e));
      kept.push_back(values[e]);
    }
    SparseGradient<C, B> sparse(ctx, rows(), cols(), static_cast<index_t>(index.size()));
    sparse.assign(ctx, index, kept);
    return sparse;
  }
  /// Delta becomes this one. Throws ShapeError; StateError while merged.
  void set_delta(Context& ctx, const SparseGradient<C, B>& delta) {
    require_shape("delta", delta.rows(), delta.cols(), rows(), cols(), "rows x cols of the core");
    require_apart("set_delta");
    B::template zero<C>(ctx, delta_.data(), delta_.size());
    add_to_core(ctx, delta, delta_.matrix(rows(), cols()));
  }

  /// W += V Delta U^T into `target`, the writable view of the weight or, of 16 bits, of its float
  /// master (round W after it); from then on forward is that of a plain layer. Throws StateError
  /// when it is merged; ShapeError; NonFiniteError when Delta holds NaN or Inf, which no unmerge
  /// would take out of W again.
  void merge(Context& ctx, MatrixView<C> target, WeightLayout layout = WeightLayout::out_in) {
    fold(ctx, C(1), target, layout, "merge");
  }
  /// W -= V Delta U^T, to rounding what it was before merge.
  void unmerge(Context& ctx, MatrixView<C> target, WeightLayout layout = WeightLayout::out_in) {
    fold(ctx, C(-1), target, layout, "unmerge");
  }

 private:
  static const Basis& required(const BasisPointer& basis) {
    if (basis == nullptr) throw ValueError("the adapter's basis is null, expected one");
    return *basis;
  }
  index_t rows() const { return basis()->rows(); }
  index_t cols() const { return basis()->cols(); }
  const auto& tokens() const { return gradient_.token_basis(); }

  void require_apart(const char* call) const {
    if (merged_)
      throw StateError(std::string(call) + ": the adapter is merged into the weight; unmerge it first");
  }
  void require_own_basis(const char* call) const {
    if (gradient_.basis() == basis_) return;
    throw StateError(std::string(call) +
                     ": the gradient has another basis than the delta; make an adapter for each basis");
  }
  /// Delta as products with tokens use it.
  template <class Frame>
  MatrixView<const T> token_delta(Context& ctx, Frame& frame) const {
    if constexpr (is_low_precision<T>) {
      const MatrixView<T> rounded = frame.template matrix<T>(rows(), cols());
      B::template round_to<T>(ctx, delta(), rounded);
      return rounded;
    } else {
      return delta();
    }
  }
  static void add_to_core(Context& ctx, const SparseGradient<C, B>& d, MatrixView<C> core) {
    if (d.dense()) return B::template add<C>(ctx, C(1), d.matrix(), core);
    auto frame = ctx.frame();
    C* sums = frame.template take<C>(d.count());
    B::template gather<C>(ctx, core.data, d.indices(), d.count(), sums);
    B::template add<C>(ctx, C(1), MatrixView<const C>(d.values(), 1, d.count()),
                       MatrixView<C>(sums, 1, d.count()));
    B::template scatter<C>(ctx, sums, d.indices(), d.count(), core.data);
  }
  void fold(Context& ctx, C sign, MatrixView<C> target, WeightLayout layout, const char* call) {
    const bool want_merged = sign > C(0);
    if (merged_ == want_merged) {
      throw StateError(std::string(call) + ": the adapter is " + (merged_ ? "merged already" : "not merged"));
    }
    const index_t bad = want_merged ? B::template first_nonfinite<C>(ctx, delta_.matrix(rows(), cols())) : -1;
    if (bad >= 0) {
      throw NonFiniteError(std::string(call) + ": the delta holds NaN or Inf at row " +
                           std::to_string(bad / cols()) + ", column " + std::to_string(bad % cols()) +
                           "; expected finite numbers");
    }
    SparseGradient<C, B> update = export_delta(ctx);
    B::template scale<C>(ctx, sign, MatrixView<C>(update.values(), 1, update.count()));
    add_expanded<C, B>(ctx, *basis(), update, layout, target, gradient_.cost_model());
    merged_ = want_merged;
  }

  CoreGradient<T, B> gradient_;
  BasisPointer basis_;          ///< Delta's
  MatrixView<const T> weight_;  ///< empty: it lives elsewhere
  WeightLayout layout_ = WeightLayout::out_in;
  const T* bias_ = nullptr;
  Buffer<C, B> delta_;
  bool merged_ = false;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
