// GivenGradient: the core of a weight gradient that the engine has computed and keeps.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "core/low_precision.hpp"
#include "core/weight_layout.hpp"
#include "core_projection.hpp"
#include "core_source.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Non-owning view of a weight gradient as an engine stores it: in C, bfloat16 or half, as dW [out,
/// in] or its transpose. bfloat16 and half go with C = float.
template <class C>
struct WeightGradientView {
  /// The matrix, in float types that the engine may use.
  std::variant<MatrixView<const C>, MatrixView<const bfloat16>, MatrixView<const float16>> matrix;
  /// How it is stored.
  WeightLayout layout = WeightLayout::out_in;

  /// Rows as stored.
  index_t rows() const {
    return std::visit([](const auto& m) { return m.rows; }, matrix);
  }
  /// Columns as stored.
  index_t cols() const {
    return std::visit([](const auto& m) { return m.cols; }, matrix);
  }
  /// Whether there are no elements.
  bool empty() const { return rows() == 0 || cols() == 0; }
};

/// Core gradient of a dW that is borrowed and only read: G~ = V^T dW U [r, c], in one pass over dW.
///
/// Without a basis the core is dW itself, where it stands: nothing is copied. 16-bit gradients are
/// widened in blocks that stay in the cache. A copy is made of a transposed or strided dW without a
/// basis, under a Hadamard side that comes first, and for `own_core` or `weight_gradient`, which
/// are to be changed.
///
///     GivenGradient<float> gradient(ctx, out, in);
///     gradient.set({MatrixView<const float>(dw, out, in)});    // until clear
///     gradient.core(ctx);
template <class C, Backend B = DefaultBackend>
class GivenGradient final : public CoreSource<C, B> {
  static_assert(is_compute_type<C>, "C, the type of sums, bases and cores, must be float or double");

 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The bases of the core.
  using Basis = TuckerBasis<C, B>;
  /// How a basis is held.
  using BasisPointer = std::shared_ptr<const Basis>;
  /// What a basis is fitted from.
  using Accumulator = HosvdAccumulator<C, B>;
  /// A weight gradient in the engine's memory.
  using View = WeightGradientView<C>;

  /// `rotations` is the precision of the products with the basis, full where it is not available.
  /// Throws ShapeError unless out > 0 and in > 0, and dW has less than 2^63 bytes; ValueError for a
  /// cost model out of range.
  GivenGradient(Context& ctx, index_t out, index_t in, CostModel cost_model = {},
                RotationPrecision rotations = RotationPrecision::full)
      : out_(out), in_(in), cost_model_(cost_model), rotations_(available_rotations<C, B>(ctx, rotations)) {
    detail::require_extents(out, in);
    cost_model_.require_valid();
    set_basis(ctx, nullptr);
  }
  GivenGradient(const GivenGradient&) = delete;
  GivenGradient& operator=(const GivenGradient&) = delete;

  /// The gradient until `clear`, in place of one given before. Its memory must stay as it is until
  /// then. Throws ShapeError; StateError when the core of one given before was already asked for.
  void set(View dw) {
    require_fits(dw);
    require_whole("set_gradient");
    if (finished())
      throw StateError("set_gradient: the core of this step is finished; call step or clear first");
    given_ = dw;
    state_ = State::given;
  }
  /// A gradient that is there in every step, from now on: memory that the engine writes anew.
  /// Throws ShapeError, StateError when the core of this step is finished. `set` gives another for
  /// one step.
  void keep(View dw) {
    require_fits(dw);
    this->require_idle("keep");
    kept_ = dw;
    given_ = dw;
    standing_ = true;
  }

  index_t out_extent() const override { return out_; }
  /// Columns of dW.
  index_t in_extent() const override { return in_; }
  const BasisPointer& basis() const override { return basis_; }
  /// The order of the products.
  Plan plan() const override { return {}; }
  bool accumulating() const override { return state_ != State::empty; }
  /// Whether a gradient stands in every step.
  bool keeps() const { return standing_; }
  /// Whether a step finds a gradient: one that was set, or one that stands.
  bool has_gradient() const { return standing_ || accumulating(); }
  bool finished() const override { return state_ == State::finished; }
  /// Whether dW itself is formed.
  bool forms_weight_gradient() const override { return forms_weight_gradient_; }
  index_t bytes() const override { return own_.bytes(); }
  index_t element_count() const override { return own_.size(); }

  void set_basis(Context& ctx, BasisPointer basis, std::optional<Plan> = {}) override {
    if (basis == nullptr) basis = Basis::identity(out_, in_);
    this->require_basis(*basis);
    this->require_idle("set_basis");
    const bool rotates = basis->out().rotates() || basis->in().rotates();
    own_.resize(ctx, rotates ? basis->rows() * basis->cols() : 0);
    (void)detail::BasisRotations<C, B>(ctx, *basis, rotations_);
    basis_ = std::move(basis);
  }
  void form_weight_gradient(Context&, bool on) override { forms_weight_gradient_ = on; }

  void add_to(Context& ctx, Accumulator& sums, NonFinite policy) override {
    require_given("add_to");
    require_whole("add_to");
    const auto add = [&](MatrixView<const C> dw, WeightLayout layout) {
      if (policy == NonFinite::raise) return sums.add(ctx, dw, 1, layout);
      (void)sums.add_if_finite(ctx, dw, 1, layout);
    };
    if (owns_gradient_) return add(own_matrix(), WeightLayout::out_in);
    visit([&](auto s) {
      auto frame = ctx.frame();
      add(detail::widened<C, B>(ctx, frame, s), given_.layout);
    });
  }

  MatrixView<C> weight_gradient(Context& ctx) override {
    if (finished()) throw StateError("weight_gradient: the core of this step is finished");
    require_whole("weight_gradient");
    if (!owns_gradient_) {
      if (own_.size() < out_ * in_) own_.resize(ctx, out_ * in_);
      copy_gradient(ctx, own_matrix());
      owns_gradient_ = true;
      if (state_ == State::empty) state_ = State::given;
    }
    return own_matrix();
  }

  MatrixView<const C> core(Context& ctx) override {
    if (!finished() && !rotates() && !owns_gradient_ && has_gradient() &&
        given_.layout == WeightLayout::out_in) {
      const auto* dw = std::get_if<MatrixView<const C>>(&given_.matrix);
      if (dw != nullptr && dw->contiguous()) {
        state_ = State::finished;
        borrowed_core_ = *dw;
      }
    }
    return borrowed_core_.data != nullptr ? borrowed_core_ : own_core(ctx);
  }
  MatrixView<C> own_core(Context& ctx) override {
    const index_t rows = basis_->rows();
    const index_t cols = basis_->cols();
    require_whole("core");
    if (finished() && borrowed_core_.data == nullptr) return own_.matrix(rows, cols);
    if (own_.size() < rows * cols) own_.resize(ctx, rows * cols);
    const MatrixView<C> core = own_.matrix(rows, cols);
    if (owns_gradient_) {
      state_ = State::broken;  // while it is neither dW nor the core
      detail::project_in_place<C, B>(ctx, detail::BasisRotations<C, B>(ctx, *basis_, rotations_), Plan(),
                                     cost_model_, own_matrix(), core);
    } else if (!has_gradient()) {
      B::template zero<C>(ctx, core.data, core.size());
    } else {
      visit([&](auto s) {
        detail::project_stored<C, B>(ctx, detail::BasisRotations<C, B>(ctx, *basis_, rotations_), cost_model_,
                                     s, given_.layout == WeightLayout::in_out, core);
      });
    }
    borrowed_core_ = {};
    state_ = State::finished;
    return core;
  }

  std::optional<PendingCore<C, B>> pending_core() override {
    PendingCore<C, B> pending(*basis_, cost_model_, Plan());
    if (!pending.possible() || rotations_ != RotationPrecision::full) return {};
    const auto* dw = std::get_if<MatrixView<const C>>(&given_.matrix);
    pending.ready = dw != nullptr && has_gradient() && !owns_gradient_ && !finished();
    if (pending.ready) pending.sum = *dw;
    pending.turned = given_.layout == WeightLayout::in_out;
    pending.core = own_.matrix(basis_->rows(), basis_->cols());
    return pending;
  }
  void take_core(MatrixView<C>, const std::shared_ptr<int>&) override {
    borrowed_core_ = {};
    state_ = State::finished;
  }

  MatrixView<const C> standing_gradient() const override {
    const auto* dw = std::get_if<MatrixView<const C>>(&given_.matrix);
    return dw != nullptr && has_gradient() && given_.layout == WeightLayout::out_in ? *dw
                                                                                    : MatrixView<const C>();
  }

  const void* unread_gradient() const override {
    if (!has_gradient() || owns_gradient_ || (finished() && borrowed_core_.data == nullptr)) return nullptr;
    return std::visit([](const auto& m) { return static_cast<const void*>(m.data); }, given_.matrix);
  }

  void clear() override {
    state_ = State::empty;
    owns_gradient_ = false;
    borrowed_core_ = {};
    given_ = kept_;
  }

  /// (A dW that is copied because it is strided, transposed or of 16 bits and there is no basis
  /// takes its memory when it first comes.)
  void reserve(Context& ctx, index_t max_tokens) override {
    detail::require_tokens(max_tokens, (std::max)(out_, in_));
    const index_t element = static_cast<index_t>(sizeof(C));
    const index_t half = rotates() ? (std::max)(basis_->rows(), basis_->cols()) * (std::max)(out_, in_) : 0;
    const index_t widened = (std::max)(in_ + out_, (index_t{1} << 20) / element);
    const index_t core = basis_->rows() * basis_->cols();
    ctx.scratch().reserve((half + widened) * element +
                          detail::split_bytes((std::max)({half, out_ * in_}), bfloat16_terms(rotations_)) +
                          B::template scratch_bound<C>(ctx, (std::max)({half, core, widened})) + 4096);
  }

 private:
  enum class State {
    empty,
    given,
    broken,    ///< own_ held dW, projected in part
    finished,  ///< the core was asked for
  };

  bool rotates() const { return basis_->out().rotates() || basis_->in().rotates(); }
  MatrixView<C> own_matrix() { return own_.matrix(out_, in_); }

  /// f(view) of the stored matrix; of a 16-bit one only where C is float.
  template <class F>
  void visit(F&& f) {
    std::visit(
        [&](auto s) {
          using S = std::remove_const_t<std::remove_pointer_t<decltype(s.data)>>;
          if constexpr (std::is_same_v<compute_t<S>, C>) f(s);
        },
        given_.matrix);
  }
  void copy_gradient(Context& ctx, MatrixView<C> dw) {
    if (!has_gradient()) return B::template zero<C>(ctx, dw.data, dw.size());
    visit([&](auto s) { detail::copy_stored<C, B>(ctx, s, given_.layout == WeightLayout::in_out, dw); });
  }

  void require_fits(const View& dw) const {
    const bool out_in = dw.layout == WeightLayout::out_in;
    require_shape("dW", dw.rows(), dw.cols(), out_in ? out_ : in_, out_in ? in_ : out_,
                  out_in ? "out x in" : "in x out");
    if (!std::is_same_v<C, float> && dw.matrix.index() != 0)
      throw ValueError("a gradient of 16 bits goes with float sums, expected one of the weight's own type");
  }
  void require_whole(const char* call) const {
    if (state_ == State::broken) {
      throw StateError(std::string(call) +
                       ": an earlier call failed while it projected the gradient in place; call clear and "
                       "begin the step again");
    }
  }
  void require_given(const char* call) const {
    if (finished() || !has_gradient())
      throw StateError(std::string(call) + ": there is no gradient, or its core was already asked for");
  }

  index_t out_ = 0;
  index_t in_ = 0;
  CostModel cost_model_;
  RotationPrecision rotations_;
  BasisPointer basis_;
  View given_;  ///< of this step
  View kept_;   ///< of every step, where it stands
  bool standing_ = false;
  State state_ = State::empty;
  bool forms_weight_gradient_ = false;
  bool owns_gradient_ = false;         ///< own_ holds dW
  MatrixView<const C> borrowed_core_;  ///< dW itself, where it is the core
  Buffer<C, B> own_;                   ///< the core; dW where it is to be changed
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
