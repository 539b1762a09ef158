// TuckerBasis: the pair (V, U) in which gradients become compact.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "basis_side.hpp"
#include "core/backend.hpp"
#include "core/full_precision.hpp"
#include "core/wait.hpp"
#include "default_backend.hpp"
#include "hosvd.hpp"
#include "hosvd_accumulator.hpp"
#include "low_precision_basis.hpp"
#include "plan.hpp"
#include "side_recipe.hpp"

namespace sparsegrad {

namespace detail {
/// "1e-09": few digits, any magnitude.
inline std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}
}  // namespace detail

/// What a fit knows of one side.
struct SideReport {
  /// Eigenvalues lambda of the side's Gram matrix, descending, negative ones set to 0: the energies of its
  /// singular vectors. Empty where there is none; of a sketched side the leading ones, from below.
  std::vector<double> spectrum;
  /// Share of the stack's energy in the span of the side's r vectors, in [0, 1]; 1 for a side that drops
  /// nothing, NaN where it is unknown (truncated without gradients). A stack without energy: 1.
  double kept_energy = 1;
  /// Energy outside of that span; NaN where it is unknown.
  double tail_energy = 0;
};

/// What a fit knows of the stack.
struct BasisReport {
  SideReport out;
  SideReport in;
  index_t gradients = 0;    ///< how many were added up; 0 without a fit
  double total_energy = 0;  ///< sum_i w_i ||G_i||^2

  /// The core keeps at least this share of the stack's energy: 1 - (tail_out + tail_in) / total, from 0.
  double joint_lower_bound() const { return std::max(0.0, out.kept_energy + in.kept_energy - 1); }
  /// ||X - X^|| <= sqrt(tail_out + tail_in) for the stack X of the weighted gradients and its reconstruction
  /// (De Lathauwer, De Moor, Vandewalle 2000, property 10).
  double tail_bound() const { return std::sqrt(out.tail_energy + in.tail_energy); }
};

/// Shares of ||G||^2, each in [0, 1]; 0 for a gradient that is 0.
struct EnergyShares {
  double raw_top_k = 0;    ///< in the k largest entries of G
  double basis_top_k = 0;  ///< in the k largest entries of V^T G U
  double kept_block = 0;   ///< in the whole core V^T G U
};

/// max |U^T U - I| of each side.
struct OrthogonalityDefect {
  double out = 0;
  double in = 0;
};

/// V [out, r] and U [in, c] with orthonormal columns. A gradient G [out, in] has the core V^T G U [r, c].
/// Immutable, but for copies of the factors in narrower types, made when first asked for; shared by pointer, also by
/// several contexts: what the calls here return is finished.
template <class T, Backend B = DefaultBackend>
class TuckerBasis {
 public:
  using Context = typename B::Context;
  using Side = BasisSide<T, B>;
  using Accumulator = HosvdAccumulator<T, B>;
  using Pointer = std::shared_ptr<const TuckerBasis>;

  /// Defect that `from_factors` accepts.
  static constexpr double default_tolerance = sizeof(T) == 4 ? 1e-4 : 1e-9;

  /// HOSVD of the gradients that the accumulator saw, truncated by the rules: V, U = leading eigenvectors of
  /// the Gram sums (in double, stored as T). The entry of largest magnitude of each vector is positive; of
  /// entries as large to 1e-5 the first decides, so that rounding does not.
  /// Takes a copy of one side's Gram sums at a time as working memory.
  /// Throws StateError when a rule needs gradients and the accumulator has none or not that side; ValueError
  /// when a sketched side is asked for more vectors than its sketch has columns, or by a rule's own check.
  static Pointer fit(Context& ctx, const Accumulator& sums, const SideRecipe& out_rule,
                     const SideRecipe& in_rule) {
    return fit_sides(ctx, sums, nullptr, out_rule, in_rule);
  }
  /// The same, in the accumulator's own memory, without that copy: the Gram sums are gone afterwards.
  static Pointer fit(Context& ctx, Accumulator&& sums, const SideRecipe& out_rule,
                     const SideRecipe& in_rule) {
    return fit_sides(ctx, sums, &sums, out_rule, in_rule);
  }
  /// From rules that need no gradients (identity, random, fast transform), for gradients [out, in].
  /// Throws StateError when a rule does need them.
  static Pointer from_rules(Context& ctx, index_t out, index_t in, const SideRecipe& out_rule,
                            const SideRecipe& in_rule) {
    HosvdOptions none;
    none.out_side = none.in_side = false;
    return fit(ctx, Accumulator(ctx, out, in, none), out_rule, in_rule);
  }

  /// From V [out, r] and U [in, c] in the backend's memory; copied.
  /// Throws ValueError, stating the defect, when max |V^T V - I| or max |U^T U - I| exceeds the tolerance.
  static Pointer from_factors(Context& ctx, ConstMatrixView<T> v, ConstMatrixView<T> u,
                              double tolerance = default_tolerance) {
    Pointer basis = from_sides(Side::from_factor(ctx, v), Side::from_factor(ctx, u));
    basis->require_orthonormal(ctx, tolerance);
    return basis;
  }
  /// From two sides, which are taken over. The report is what is known of them: files give it back.
  static Pointer from_sides(Side out, Side in) {
    BasisReport report;
    report.out = unfitted(out);
    report.in = unfitted(in);
    return from_sides(std::move(out), std::move(in), std::move(report));
  }
  static Pointer from_sides(Side out, Side in, BasisReport report) {
    return Pointer(new TuckerBasis(std::move(out), std::move(in), std::move(report)));
  }
  /// No rotation: the core is the gradient itself.
  static Pointer identity(index_t out, index_t in) {
    return from_sides(Side::identity(out), Side::identity(in));
  }
  static Pointer identity(Context&, index_t out, index_t in) { return identity(out, in); }

  const Side& out() const { return out_; }
  const Side& in() const { return in_; }
  const BasisReport& report() const { return report_; }
  /// r, c: extents of the core.
  index_t rows() const { return out_.rank(); }
  index_t cols() const { return in_.rank(); }
  /// Extents of a gradient.
  index_t out_extent() const { return out_.extent(); }
  index_t in_extent() const { return in_.extent(); }
  /// Bytes stored (factors and signs, and the narrow copies that were asked for).
  index_t bytes() const {
    const std::lock_guard lock(narrow_mutex_);
    return out_.bytes() + in_.bytes() + (bfloat16_ == nullptr ? 0 : bfloat16_->bytes()) +
           (float16_ == nullptr ? 0 : float16_->bytes());
  }

  /// The basis with its factors rounded to N = bfloat16 or float16, for products with tokens stored so. Made at the
  /// first call, once for all layers, and kept as long as the basis; only where T is float.
  template <class N>
  const LowPrecisionBasis<N, B>& low_precision(Context& ctx) const {
    static_assert(std::is_same_v<compute_t<N>, T> && is_low_precision<N>);
    const std::lock_guard lock(narrow_mutex_);
    auto& copy = [&]() -> auto& {
      if constexpr (std::is_same_v<N, bfloat16>) {
        return bfloat16_;
      } else {
        return float16_;
      }
    }
    ();
    if (copy == nullptr) copy = std::make_unique<LowPrecisionBasis<N, B>>(ctx, out_, in_);
    return *copy;
  }

  /// C = V^T G U, G [out, in], C [r, c].
  void project(Context& ctx, ConstMatrixView<T> g, MatrixView<T> core) const {
    require_shape("gradient", g.rows, g.cols, out_extent(), in_extent(), "out x in of the basis");
    require_shape("core", core.rows, core.cols, rows(), cols(), "rows x cols of the core");
    if (!out_.rotates()) return in_.project_columns(ctx, g, core);
    if (!in_.rotates()) return out_.project_rows(ctx, g, core);
    auto frame = ctx.frame();
    if (CostModel().projects_columns_first(detail::shape_of(out_), detail::shape_of(in_))) {
      const MatrixView<T> half = frame.template matrix<T>(g.rows, cols());
      in_.project_columns(ctx, g, half);
      out_.project_rows(ctx, half, core);
    } else {
      const MatrixView<T> half = frame.template matrix<T>(rows(), g.cols);
      out_.project_rows(ctx, g, half);
      in_.project_columns(ctx, half, core);
    }
  }

  /// G = V C U^T + beta G, C [r, c], G [out, in]; beta = 0 overwrites NaN.
  void expand(Context& ctx, ConstMatrixView<T> core, T beta, MatrixView<T> g) const {
    require_shape("gradient", g.rows, g.cols, out_extent(), in_extent(), "out x in of the basis");
    require_shape("core", core.rows, core.cols, rows(), cols(), "rows x cols of the core");
    if (!out_.rotates()) return in_.expand_columns(ctx, core, beta, g);
    if (!in_.rotates()) return out_.expand_rows(ctx, core, beta, g);
    auto frame = ctx.frame();
    if (CostModel().expands_columns_first(detail::shape_of(out_), detail::shape_of(in_))) {
      const MatrixView<T> half = frame.template matrix<T>(rows(), g.cols);
      in_.expand_columns(ctx, core, T(0), half);
      out_.expand_rows(ctx, half, beta, g);
    } else {
      const MatrixView<T> half = frame.template matrix<T>(g.rows, cols());
      out_.expand_rows(ctx, core, T(0), half);
      in_.expand_columns(ctx, half, beta, g);
    }
  }

  /// Where the energy of a gradient lies. k is cut to the number of entries. Throws ShapeError, ValueError when
  /// k < 0 or a matrix has 2^31 entries, NonFiniteError when ||G||^2 is not finite.
  EnergyShares energy(Context& ctx, ConstMatrixView<T> g, index_t k) const {
    require_shape("gradient", g.rows, g.cols, out_extent(), in_extent(), "out x in of the basis");
    if (k < 0) throw ValueError("k is " + std::to_string(k) + ", expected k >= 0");
    EnergyShares shares;
    const double total = g.empty() ? 0.0 : B::template squared_norm<T>(ctx, g);
    if (!std::isfinite(total)) throw NonFiniteError("energy: the gradient's squared norm is not finite");
    if (total <= 0) return shares;
    const FullPrecision exact(ctx);
    const auto share = [&](double part) { return std::clamp(part / total, 0.0, 1.0); };
    auto frame = ctx.frame();
    const MatrixView<T> memory = frame.template matrix<T>(std::max(g.size(), rows() * cols()), 1);
    const MatrixView<T> whole(memory.data, g.rows, g.cols);
    B::template copy<T>(ctx, g, whole);
    shares.raw_top_k = share(top_energy(ctx, whole, k));
    const MatrixView<T> core(memory.data, rows(), cols());
    project(ctx, g, core);
    shares.basis_top_k = share(top_energy(ctx, core, k));
    if (!core.empty()) shares.kept_block = share(B::template squared_norm<T>(ctx, core));
    return shares;
  }

  /// max |V^T V - I| and max |U^T U - I|, products in T. Identity and fast transform: 0, by construction.
  OrthogonalityDefect orthogonality_defect(Context& ctx) const {
    return {side_defect(ctx, out_), side_defect(ctx, in_)};
  }

  /// The reference implementation's rotation V^T G U^T, U^T in the place of U, for replication alone: on the in
  /// side it is an arbitrary rotation that compacts nothing. Throws ValueError unless the in side is a full factor.
  Pointer with_transposed_input(Context& ctx) const {
    if (!in_.has_factor() || in_.rank() != in_.extent()) {
      throw ValueError("with_transposed_input: the in side is " + std::string(to_string(in_.kind())) +
                       " of rank " + std::to_string(in_.rank()) + ", expected a stored one of full rank " +
                       std::to_string(in_.extent()));
    }
    // Stored are rows of U^T; their transpose taken as U^T makes U^T the new U.
    Side transposed = Side::from_factor(ctx, in_.factor());
    BasisReport report;
    report.out = report_.out;
    report.gradients = report_.gradients;
    report.total_energy = report_.total_energy;
    return from_sides(out_.clone(ctx), std::move(transposed), std::move(report));
  }

  /// A copy in another backend's memory.
  template <class Other>
  typename TuckerBasis<T, Other>::Pointer to(Context& ctx, typename Other::Context& other_ctx) const {
    return TuckerBasis<T, Other>::from_sides(out_.template to<Other>(ctx, other_ctx),
                                             in_.template to<Other>(ctx, other_ctx), report_);
  }

 private:
  TuckerBasis(Side out, Side in, BasisReport report)
      : out_(std::move(out)), in_(std::move(in)), report_(std::move(report)) {}

  static SideReport unfitted(const Side& side) {
    SideReport report;
    if (side.rank() < side.extent()) {
      report.kept_energy = report.tail_energy = std::numeric_limits<double>::quiet_NaN();
    }
    return report;
  }

  static Pointer fit_sides(Context& ctx, const Accumulator& sums, Accumulator* consumed,
                           const SideRecipe& out_rule, const SideRecipe& in_rule) {
    // All refusals come before the first side is worked on.
    detail::require_fit<T, B>(sums, GradientSide::out, out_rule);
    detail::require_fit<T, B>(sums, GradientSide::in, in_rule);
    BasisReport report;
    report.gradients = sums.count();
    report.total_energy = sums.total_energy();
    auto out = detail::fit_side<T, B>(ctx, sums, consumed, GradientSide::out, out_rule);
    auto in = detail::fit_side<T, B>(ctx, sums, consumed, GradientSide::in, in_rule);
    report.out = {std::move(out.spectrum), out.kept_energy, out.tail_energy};
    report.in = {std::move(in.spectrum), in.kept_energy, in.tail_energy};
    wait_for(ctx);
    return from_sides(std::move(out.side), std::move(in.side), std::move(report));
  }

  void require_orthonormal(Context& ctx, double tolerance) const {
    const OrthogonalityDefect defect = orthogonality_defect(ctx);
    const auto check = [&](const char* name, double value) {
      if (value <= tolerance) return;
      throw ValueError(std::string("the columns of ") + name + " are not orthonormal: max |" + name + "^T " +
                       name + " - I| is " + detail::short_number(value) + ", expected at most " +
                       detail::short_number(tolerance));
    };
    check("V", defect.out);
    check("U", defect.in);
  }

  static double side_defect(Context& ctx, const Side& side) {
    if (!side.has_factor()) return 0;
    const FullPrecision exact(ctx);
    constexpr index_t step = 64;
    const index_t r = side.rank();
    std::vector<T> host(static_cast<std::size_t>(step * r));
    double worst = 0;
    for (index_t first = 0; first < r; first += step) {
      const index_t rows = std::min(step, r - first);
      auto frame = ctx.frame();
      const MatrixView<T> products = frame.template matrix<T>(rows, r);
      B::template gemm<T>(ctx, Op::none, Op::transpose, T(1),
                          side.factor().block(first, 0, rows, side.extent()), side.factor(), T(0), products);
      B::template download<T>(ctx, products.data, host.data(), rows * r);
      for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < r; ++j) {
          const double value = static_cast<double>(host[static_cast<std::size_t>(i * r + j)]);
          const double defect = std::abs(value - (first + i == j ? 1.0 : 0.0));
          if (!(defect <= worst))
            worst = std::isnan(defect) ? std::numeric_limits<double>::infinity() : defect;
        }
      }
    }
    return worst;
  }

  static double top_energy(Context& ctx, MatrixView<T> a, index_t k) {
    const index_t n = a.size();
    if (n > std::numeric_limits<stored_index_t>::max()) {
      throw ValueError("energy: " + shape_text(a.rows, a.cols) + " has more than 2^31 - 1 entries");
    }
    k = std::min(k, n);
    if (k == 0) return 0;
    auto frame = ctx.frame();
    stored_index_t* index = frame.template take<stored_index_t>(k);
    T* value = frame.template take<T>(k);
    B::template top_k<T>(ctx, a.data, n, k, index, value);
    return B::template squared_norm<T>(ctx, MatrixView<const T>(value, 1, k));
  }

  Side out_;
  Side in_;
  BasisReport report_;
  mutable std::mutex narrow_mutex_;
  mutable std::unique_ptr<LowPrecisionBasis<bfloat16, B>> bfloat16_;
  mutable std::unique_ptr<LowPrecisionBasis<float16, B>> float16_;
};

}  // namespace sparsegrad
