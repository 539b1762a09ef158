// TuckerBasis: the pair of orthonormal factors (V, U) in which gradients are expressed.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "basis_side.hpp"
#include "core/backend.hpp"
#include "core/float_bits.hpp"
#include "core/full_precision.hpp"
#include "core/number.hpp"
#include "core/overlap.hpp"
#include "core/wait.hpp"
#include "default_backend.hpp"
#include "hosvd.hpp"
#include "hosvd_accumulator.hpp"
#include "low_precision_basis.hpp"
#include "plan.hpp"
#include "rotation_side.hpp"
#include "side_recipe.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

namespace detail {
/// 1, 2, 3, ...: no two bases of a process have the same.
inline std::uint64_t next_basis_serial() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}
}  // namespace detail

/// Truncation report of one side of a fitted basis.
struct SideReport {
  /// Eigenvalues of the side's Gram matrix, descending, negative ones set to 0: the energies of the
  /// singular vectors. Empty for a side that was not fitted; of a sketched side the leading ones,
  /// estimated from below.
  std::vector<double> spectrum;
  /// Fraction of the gradients' energy in the span of the side's r vectors, in [0, 1]. 1 for a side
  /// of full rank and for gradients that are 0; NaN where it is unknown (a truncated side that no
  /// gradients were projected on).
  double kept_energy = 1;
  /// Energy outside that span; NaN where it is unknown.
  double tail_energy = 0;
};

/// Truncation report of a fitted basis.
struct BasisReport {
  SideReport out;           ///< of the out side
  SideReport in;            ///< of the in side
  index_t gradients = 0;    ///< number of gradients accumulated; 0 for a basis that was not fitted
  double total_energy = 0;  ///< their energy sum_i w_i ||G_i||^2

  /// Lower bound of the fraction of the energy that the cores keep.
  /// It is 1 - (tail_out + tail_in) / total, or 0 where that is negative.
  double joint_lower_bound() const { return (std::max)(0.0, out.kept_energy + in.kept_energy - 1); }
  /// Upper bound of the reconstruction's error, sqrt(tail_out + tail_in).
  /// ||X - X^|| is at most that, with X the stacked weighted gradients and X^ their reconstruction
  /// from the cores (De Lathauwer, De Moor, Vandewalle 2000, property 10).
  double tail_bound() const { return std::sqrt(out.tail_energy + in.tail_energy); }
};

/// Fractions of a gradient's energy ||G||^2, each in [0, 1]; all 0 for a gradient that is 0.
struct EnergyFractions {
  double raw_top_k = 0;    ///< in the k largest entries of G
  double basis_top_k = 0;  ///< in the k largest entries of V^T G U
  double kept_block = 0;   ///< in all entries of V^T G U
};

/// Largest deviation from orthonormal columns, max |V^T V - I| and max |U^T U - I|.
struct OrthogonalityDefect {
  double out = 0;  ///< of V
  double in = 0;   ///< of U
};

/// Tucker basis of gradients [out, in]: factors V [out, r] and U [in, c] with orthonormal columns.
///
///     const auto out = SideRecipe::hosvd(64), in = SideRecipe::identity();
///     const auto basis = TuckerBasis<float>::fit(ctx, sums, out, in);
///     basis->project(ctx, g, core);       // core = V^T G U      [r, c]
///     basis->expand(ctx, core, 0.0f, g);  // G    = V core U^T   [out, in]
///
/// Immutable and shared by pointer, also between contexts and threads: all work on a basis is
/// finished when the call that made it returns. Only the low-precision copies of the factors are
/// made later, when first asked for, under a lock.
///
/// Sources: Tucker decomposition by HOSVD, De Lathauwer, De Moor, Vandewalle 2000; SparseGrad,
/// Chekalina et al. 2024.
template <class T, Backend B = DefaultBackend>
class TuckerBasis {
  static_assert(is_compute_type<T>,
                "T, the type of a basis (compute_t of the weight's type), must be float or double");

 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// One side of the basis.
  using Side = BasisSide<T, B>;
  /// What `fit` takes the gradients' sums from.
  using Accumulator = HosvdAccumulator<T, B>;
  /// How a basis is held.
  using Pointer = std::shared_ptr<const TuckerBasis>;

  /// Largest orthogonality defect that `from_factors` accepts unless told otherwise.
  static constexpr double default_tolerance = sizeof(T) == 4 ? 1e-4 : 1e-9;

  /// Makes a basis by one recipe a side; `hosvd` sides from the gradients that the accumulator saw.
  ///
  /// The factors of a HOSVD are the leading eigenvectors of the Gram sums, computed in double and
  /// stored as T, in O(out^3 + in^3); from a sketch of s columns in O(n s^2). Each vector's entry
  /// of largest magnitude is positive; among entries of equal magnitude (to 1e-5) it is the first,
  /// so that rounding does not decide the sign. The working memory is a copy of one side's Gram
  /// sums at a time.
  /// Throws StateError when a recipe needs gradients and the accumulator has none, or was made
  /// without that side; ValueError when a sketched side is asked for more vectors than its sketch
  /// has columns, and as `Truncation::choose`.
  static Pointer fit(Context& ctx, const Accumulator& sums, const SideRecipe& out_recipe,
                     const SideRecipe& in_recipe) {
    return fit_sides(ctx, sums, nullptr, out_recipe, in_recipe);
  }
  /// Makes a basis as above, but computes in the accumulator's own memory instead of a copy of it.
  /// The Gram sums of the sides that were fitted are gone afterwards.
  static Pointer fit(Context& ctx, Accumulator&& sums, const SideRecipe& out_recipe,
                     const SideRecipe& in_recipe) {
    return fit_sides(ctx, sums, &sums, out_recipe, in_recipe);
  }
  /// Makes a basis for gradients [out, in] by recipes that need no gradients: identity, random,
  /// Hadamard.
  /// Throws StateError when a recipe does need them.
  static Pointer from_recipes(Context& ctx, index_t out, index_t in, const SideRecipe& out_recipe,
                              const SideRecipe& in_recipe) {
    HosvdOptions none;
    none.out_side = none.in_side = false;
    return fit(ctx, Accumulator(ctx, out, in, none), out_recipe, in_recipe);
  }

  /// Copies the factors V [out, r] and U [in, c] of the caller's own basis from backend memory.
  ///
  ///     auto basis = TuckerBasis<float>::from_factors(ctx, {V, out, r}, {U, in, c});
  ///
  /// Orthonormality is checked in O(out r^2 + in c^2).
  /// Throws ValueError when r > out or c > in, and, stating the defect, when max |V^T V - I| or max
  /// |U^T U - I| exceeds the tolerance.
  static Pointer from_factors(Context& ctx, ConstMatrixView<T> v, ConstMatrixView<T> u,
                              double tolerance = default_tolerance);
  /// Makes a basis of two sides, which are taken over and not checked.
  static Pointer from_sides(Side out, Side in) {
    BasisReport report;
    report.out = unfitted(out);
    report.in = unfitted(in);
    return from_sides(std::move(out), std::move(in), std::move(report));
  }
  /// Makes a basis of two sides with the report that belongs to them, as files hold it.
  static Pointer from_sides(Side out, Side in, BasisReport report) {
    return Pointer(new TuckerBasis(std::move(out), std::move(in), std::move(report)));
  }
  /// The basis without rotation, in which the core is the gradient itself. Throws ValueError when
  /// an extent is negative.
  static Pointer identity(index_t out, index_t in) {
    return from_sides(Side::identity(out), Side::identity(in));
  }
  /// The basis without rotation, called like the other factories.
  static Pointer identity(Context&, index_t out, index_t in) { return identity(out, in); }

  /// The out side, V.
  const Side& out() const { return out_; }
  /// The in side, U.
  const Side& in() const { return in_; }
  /// What the fit found out about the truncation.
  const BasisReport& report() const { return report_; }
  /// Tells this basis from all others of the process; never 0.
  std::uint64_t serial() const { return serial_; }
  /// Rows r of a core.
  index_t rows() const { return out_.rank(); }
  /// Columns c of a core.
  index_t cols() const { return in_.rank(); }
  /// Rows of a gradient.
  index_t out_extent() const { return out_.extent(); }
  /// Columns of a gradient.
  index_t in_extent() const { return in_.extent(); }
  /// Bytes of backend memory held: factors, signs, and the low-precision copies made so far.
  index_t bytes() const {
    const std::lock_guard lock(low_precision_mutex_);
    index_t copies = 0;
    for (const auto& split : splits_)
      copies += split == nullptr ? 0 : split->bytes();
    return out_.bytes() + in_.bytes() + (bfloat16_ == nullptr ? 0 : bfloat16_->bytes()) +
           (float16_ == nullptr ? 0 : float16_->bytes()) + copies;
  }

  /// The basis with its factors rounded to N = bfloat16 or float16, for products with tokens of
  /// that type. Made at the first call, for all layers that share the basis, and kept as long as
  /// it; only where T is float.
  template <class N>
  const LowPrecisionBasis<N, B>& low_precision(Context& ctx) const {
    static_assert(std::is_same_v<compute_t<N>, T> && is_low_precision<N>);
    const std::lock_guard lock(low_precision_mutex_);
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

  /// The basis's factors in the terms of a precision other than full, for rotations of float
  /// matrices. Made at the first call and kept, as `low_precision`; only where T is float and the
  /// backend has `split`.
  const SplitBasis<B>& split(Context& ctx, RotationPrecision precision) const {
    const LowPrecisionBasis<bfloat16, B>& rounded = low_precision<bfloat16>(ctx);
    const std::lock_guard lock(low_precision_mutex_);
    const int terms = bfloat16_terms(precision);
    auto& copy = splits_.at(static_cast<std::size_t>(terms - 1));
    if (copy == nullptr) copy = std::make_unique<SplitBasis<B>>(ctx, out_, in_, rounded, terms);
    return *copy;
  }

  /// Projects a gradient onto the basis: C = V^T G U, G [out, in], C [r, c].
  /// The product that the cost model finds cheaper comes first. Throws ShapeError; ValueError when
  /// the two overlap.
  void project(Context& ctx, ConstMatrixView<T> g, MatrixView<T> core) const;

  /// Expands a core to a gradient: G = V C U^T + beta G, C [r, c], G [out, in].
  /// beta = 0 overwrites G, NaN included. The product that the cost model finds cheaper comes
  /// first. Throws ShapeError; ValueError when the two overlap.
  void expand(Context& ctx, ConstMatrixView<T> core, T beta, MatrixView<T> g) const;

  /// How much of a gradient's energy k entries hold, as it is and in the basis. k is at most the
  /// number of entries.
  /// Throws ShapeError; ValueError when k < 0 or a matrix has 2^31 entries or more; NonFiniteError
  /// when ||G||^2 is not finite.
  EnergyFractions energy(Context& ctx, ConstMatrixView<T> g, index_t k) const;

  /// Measures max |V^T V - I| and max |U^T U - I| with products in T, in O(out r^2 + in c^2).
  /// Identity and Hadamard sides count as 0, by construction.
  OrthogonalityDefect orthogonality_defect(Context& ctx) const {
    return {side_defect(ctx, out_), side_defect(ctx, in_)};
  }

  /// The basis with U^T in place of U, as in the paper's reference implementation (G is rotated to
  /// V^T G U^T). For replication only: on the in side it is an arbitrary rotation, which makes
  /// gradients no sparser.
  /// Throws ValueError unless the in side is a stored factor of full rank.
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
                           const SideRecipe& out_recipe, const SideRecipe& in_recipe);

  void require_orthonormal(Context& ctx, double tolerance) const {
    const OrthogonalityDefect defect = orthogonality_defect(ctx);
    const auto check = [&](const char* name, double value) {
      if (!is_nan(tolerance) && value <= tolerance) return;
      throw ValueError(std::string("the columns of ") + name + " are not orthonormal: max |" + name + "^T " +
                       name + " - I| is " + number_text(value, 3) + ", expected at most " +
                       number_text(tolerance, 3));
    };
    check("V", defect.out);
    check("U", defect.in);
  }

  static double side_defect(Context& ctx, const Side& side);

  static double top_energy(Context& ctx, MatrixView<T> a, index_t k) {
    const index_t n = a.size();
    if (n > (std::numeric_limits<stored_index_t>::max)()) {
      throw ValueError("energy: " + shape_text(a.rows, a.cols) + " has more than 2^31 - 1 entries");
    }
    k = (std::min)(k, n);
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
  std::uint64_t serial_ = detail::next_basis_serial();
  mutable std::mutex low_precision_mutex_;
  mutable std::unique_ptr<LowPrecisionBasis<bfloat16, B>> bfloat16_;
  mutable std::unique_ptr<LowPrecisionBasis<float16, B>> float16_;
  mutable std::array<std::unique_ptr<SplitBasis<B>>, 3> splits_;  ///< of one, two and three terms
};

template <class T, Backend B>
auto TuckerBasis<T, B>::from_factors(Context& ctx, ConstMatrixView<T> v, ConstMatrixView<T> u,
                                     double tolerance) -> Pointer {
  Pointer basis = from_sides(Side::from_factor(ctx, v), Side::from_factor(ctx, u));
  basis->require_orthonormal(ctx, tolerance);
  return basis;
}

template <class T, Backend B>
void TuckerBasis<T, B>::project(Context& ctx, ConstMatrixView<T> g, MatrixView<T> core) const {
  require_shape("gradient", g.rows, g.cols, out_extent(), in_extent(), "out x in of the basis");
  require_shape("core", core.rows, core.cols, rows(), cols(), "rows x cols of the core");
  require_apart("the core", core, "the gradient", g);
  if (!out_.rotates()) return in_.project_columns(ctx, g, core);
  if (!in_.rotates()) return out_.project_rows(ctx, g, core);
  auto frame = ctx.frame();
  if (CostModel().projects_columns_first(shape_of(out_), shape_of(in_))) {
    const MatrixView<T> half = frame.template matrix<T>(g.rows, cols());
    in_.project_columns(ctx, g, half);
    out_.project_rows(ctx, half, core);
  } else {
    const MatrixView<T> half = frame.template matrix<T>(rows(), g.cols);
    out_.project_rows(ctx, g, half);
    in_.project_columns(ctx, half, core);
  }
}

template <class T, Backend B>
void TuckerBasis<T, B>::expand(Context& ctx, ConstMatrixView<T> core, T beta, MatrixView<T> g) const {
  require_shape("gradient", g.rows, g.cols, out_extent(), in_extent(), "out x in of the basis");
  require_shape("core", core.rows, core.cols, rows(), cols(), "rows x cols of the core");
  require_apart("the gradient", g, "the core", core);
  if (!out_.rotates()) return in_.expand_columns(ctx, core, beta, g);
  if (!in_.rotates()) return out_.expand_rows(ctx, core, beta, g);
  auto frame = ctx.frame();
  if (CostModel().expands_columns_first(shape_of(out_), shape_of(in_))) {
    const MatrixView<T> half = frame.template matrix<T>(rows(), g.cols);
    in_.expand_columns(ctx, core, T(0), half);
    out_.expand_rows(ctx, half, beta, g);
  } else {
    const MatrixView<T> half = frame.template matrix<T>(g.rows, cols());
    out_.expand_rows(ctx, core, T(0), half);
    in_.expand_columns(ctx, half, beta, g);
  }
}

template <class T, Backend B>
EnergyFractions TuckerBasis<T, B>::energy(Context& ctx, ConstMatrixView<T> g, index_t k) const {
  require_shape("gradient", g.rows, g.cols, out_extent(), in_extent(), "out x in of the basis");
  if (k < 0) throw ValueError("k is " + std::to_string(k) + ", expected k >= 0");
  EnergyFractions fractions;
  const double total = g.empty() ? 0.0 : B::template squared_norm<T>(ctx, g);
  if (!is_finite(total)) throw NonFiniteError("energy: the gradient's squared norm is not finite");
  if (total <= 0) return fractions;
  const FullPrecision exact(ctx);
  const auto fraction_of = [&](double part) { return std::clamp(part / total, 0.0, 1.0); };
  auto frame = ctx.frame();
  const MatrixView<T> memory = frame.template matrix<T>((std::max)(g.size(), rows() * cols()), 1);
  const MatrixView<T> whole(memory.data, g.rows, g.cols);
  B::template copy<T>(ctx, g, whole);
  fractions.raw_top_k = fraction_of(top_energy(ctx, whole, k));
  const MatrixView<T> core(memory.data, rows(), cols());
  project(ctx, g, core);
  fractions.basis_top_k = fraction_of(top_energy(ctx, core, k));
  if (!core.empty()) fractions.kept_block = fraction_of(B::template squared_norm<T>(ctx, core));
  return fractions;
}

template <class T, Backend B>
auto TuckerBasis<T, B>::fit_sides(Context& ctx, const Accumulator& sums, Accumulator* consumed,
                                  const SideRecipe& out_recipe, const SideRecipe& in_recipe) -> Pointer {
  // All refusals come before the first side is worked on.
  detail::require_fit<T, B>(sums, GradientSide::out, out_recipe);
  detail::require_fit<T, B>(sums, GradientSide::in, in_recipe);
  BasisReport report;
  report.gradients = sums.count();
  report.total_energy = sums.total_energy();
  auto out = detail::fit_side<T, B>(ctx, sums, consumed, GradientSide::out, out_recipe);
  auto in = detail::fit_side<T, B>(ctx, sums, consumed, GradientSide::in, in_recipe);
  report.out = {std::move(out.spectrum), out.kept_energy, out.tail_energy};
  report.in = {std::move(in.spectrum), in.kept_energy, in.tail_energy};
  wait_for(ctx);
  return from_sides(std::move(out.side), std::move(in.side), std::move(report));
}

template <class T, Backend B>
double TuckerBasis<T, B>::side_defect(Context& ctx, const Side& side) {
  if (!side.has_factor()) return 0;
  const FullPrecision exact(ctx);
  constexpr index_t step = 64;
  const index_t r = side.rank();
  std::vector<T> host(static_cast<std::size_t>(step * r));
  double worst = 0;
  for (index_t first = 0; first < r; first += step) {
    const index_t rows = (std::min)(step, r - first);
    auto frame = ctx.frame();
    const MatrixView<T> products = frame.template matrix<T>(rows, r);
    B::template gemm<T>(ctx, Op::none, Op::transpose, T(1),
                        side.factor().block(first, 0, rows, side.extent()), side.factor(), T(0), products);
    B::template download<T>(ctx, products.data, host.data(), rows * r);
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < r; ++j) {
        const double value = static_cast<double>(host[static_cast<std::size_t>(i * r + j)]);
        const double defect = std::abs(value - (first + i == j ? 1.0 : 0.0));
        if (!is_finite(defect)) return (std::numeric_limits<double>::max)();
        worst = (std::max)(worst, defect);
      }
    }
  }
  return worst;
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
