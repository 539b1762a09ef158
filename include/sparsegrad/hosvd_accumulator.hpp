// HosvdAccumulator: the Gram sums of a stream of gradients, from which their HOSVD is computed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/full_precision.hpp"
#include "core/number.hpp"
#include "core/random.hpp"
#include "core/weight_layout.hpp"
#include "default_backend.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// The two sides of a gradient [out, in].
enum class GradientSide { out, in };

/// The side's name: "out" or "in".
inline const char* to_string(GradientSide side) {
  return side == GradientSide::out ? "out" : "in";
}

/// Options of a HosvdAccumulator.
struct HosvdOptions {
  bool out_side = true;    ///< whether a HOSVD of the out side will be computed
  bool in_side = true;     ///< whether a HOSVD of the in side will be computed
  bool normalize = false;  ///< divide each gradient by its Frobenius norm first
  /// Most bytes for a side's Gram matrix; a side whose matrix is larger is sketched.
  index_t gram_limit_bytes = index_t{512} << 20;
  /// Columns s of a sketch; 0: as many as the limit allows, at most 512 and the extent.
  index_t sketch_columns = 0;
  std::uint64_t sketch_seed = 1;  ///< of the test matrix Omega
};

/// Accumulates what the HOSVD of a stream of gradients needs, without keeping the gradients.
///
///     HosvdAccumulator<float> sums(ctx, out, in);
///     for (const auto& dw : gradients) sums.add(ctx, dw);
///     const SideRecipe leading = SideRecipe::hosvd(64);
///     const auto basis = TuckerBasis<float>::fit(ctx, sums, leading, leading);
///
/// The singular vectors of an unfolding are the eigenvectors of its Gram matrix, so the sums over
/// the gradients G_i [out, in] with weights w_i suffice:
///
///     out side   sum_i w_i G_i G_i^T   [out, out]
///     in side    sum_i w_i G_i^T G_i   [in, in]
///
/// Products are computed in T, sums in double (lower triangle). Nothing is allocated for a side
/// that is not wanted.
///
/// A side whose Gram matrix A [n, n] would exceed `gram_limit_bytes` keeps a linear sketch Y = A
/// Omega [n, s] instead, with a test matrix Omega of normal numbers by seed. It gives up to s
/// vectors; good ones, up to about s / 2.
///
/// Sources: De Lathauwer, De Moor, Vandewalle, "A multilinear singular value decomposition", SIAM
/// J. Matrix Anal. Appl. 21(4), 2000 (the mode along which gradients are stacked is not decomposed,
/// as in SparseGrad, Chekalina et al. 2024); Tropp, Yurtsever, Udell, Cevher, "Fixed-rank
/// approximation of a positive-semidefinite matrix from streaming data", NIPS 2017.
template <class T, Backend B = DefaultBackend>
class HosvdAccumulator {
  static_assert(is_compute_type<T>, "T, the type of the gradients that are summed, must be float or double");

 public:
  /// The backend's context.
  using Context = typename B::Context;
  /// The options' type.
  using Options = HosvdOptions;

  /// Starts with sums of 0 for gradients [out, in].
  /// Throws ValueError when an extent is negative, or a sketch does not fit under the limit.
  HosvdAccumulator(Context& ctx, index_t out, index_t in, Options options = {})
      : out_(out), in_(in), options_(options) {
    const auto [out_form, in_form] = forms(out, in, options);
    start(ctx, out_sums_, out, out_form);
    start(ctx, in_sums_, in, in_form);
  }

  /// Bytes of backend memory that an accumulator of these extents and options takes, as `bytes()`
  /// of one just made.
  /// Throws ValueError as the constructor does.
  static index_t bytes_for(index_t out, index_t in, const Options& options = {}) {
    const auto [out_form, in_form] = forms(out, in, options);
    return out * out_form.bytes_per_row() + in * in_form.bytes_per_row();
  }

  /// Extent of a gradient's out side.
  index_t out_extent() const { return out_; }
  /// Extent of a gradient's in side.
  index_t in_extent() const { return in_; }
  /// The options that it was made with.
  const Options& options() const { return options_; }
  /// Number of gradients added.
  index_t count() const { return count_; }
  /// Energy of the gradients added, sum_i w_i ||G_i||^2 (of normalised ones, the sum of their
  /// weights), in double.
  double total_energy() const { return total_energy_; }
  /// Bytes of backend memory held.
  index_t bytes() const { return out_sums_.bytes() + in_sums_.bytes(); }

  /// Adds one gradient with its weight, O(out in (out + in)).
  ///
  /// `dw` is [out, in], or [in, out] with `WeightLayout::in_out`; neither is copied.
  /// Throws ShapeError; ValueError unless the weight is finite and >= 0 and the total energy stays
  /// finite with it; NonFiniteError, naming the
  /// gradient's number (from 0) and the first position in `dw`, when it holds NaN or Inf or its
  /// squared norm is beyond double. The sums are then as before.
  void add(Context& ctx, ConstMatrixView<T> dw, double weight = 1,
           WeightLayout layout = WeightLayout::out_in) {
    if (!add_if_finite(ctx, dw, weight, layout)) refuse(ctx, dw);
  }
  /// Adds one gradient as `add` does, but returns false where `add` throws NonFiniteError.
  bool add_if_finite(Context& ctx, ConstMatrixView<T> dw, double weight = 1,
                     WeightLayout layout = WeightLayout::out_in) {
    const bool out_in = layout == WeightLayout::out_in;
    if (out_in) {
      require_shape("gradient", dw.rows, dw.cols, out_, in_, "out x in of the accumulator");
    } else {
      require_shape("gradient", dw.rows, dw.cols, in_, out_, "in x out of the accumulator");
    }
    if (!is_finite(weight) || weight < 0) {
      throw ValueError("weight of gradient " + std::to_string(count_) + " is " + number_text(weight) +
                       ", expected finite and >= 0");
    }
    const double energy = dw.empty() ? 0.0 : B::template squared_norm<T>(ctx, dw);
    if (!is_finite(energy)) return false;
    const double added = options_.normalize && energy > 0 ? weight : weight * energy;
    if (!is_finite(total_energy_ + added)) {
      throw ValueError("weight of gradient " + std::to_string(count_) + " is " + number_text(weight) +
                       ", expected one whose product with the gradient's squared norm " +
                       number_text(energy) + " stays, with the sum of all, in the range of double");
    }
    if (energy > 0 && weight > 0) {
      auto frame = ctx.frame();
      // Squares of very small or large entries leave the range of T: a power of two brings them
      // back.
      const int shift = scale_exponent(energy);
      if (shift != 0) {
        const MatrixView<T> scaled = frame.template matrix<T>(dw.rows, dw.cols);
        B::template copy<T>(ctx, dw, scaled);
        B::template scale<T>(ctx, static_cast<T>(std::ldexp(1.0, shift)), scaled);
        dw = scaled;
      }
      const double product_weight =
          options_.normalize ? weight / std::ldexp(energy, 2 * shift) : std::ldexp(weight, -2 * shift);
      accumulate(ctx, out_sums_, out_in ? Op::none : Op::transpose, dw, product_weight);
      accumulate(ctx, in_sums_, out_in ? Op::transpose : Op::none, dw, product_weight);
    }
    total_energy_ += added;
    ++count_;
    return true;
  }

  /// Adds the sums of another accumulator, as if its gradients had been added here (to the rounding
  /// of double).
  /// Throws ShapeError when the extents differ; ValueError when the sides, the normalisation or the
  /// form of the sums (Gram sums, sketch, its columns and seed) differ; NonFiniteError when the
  /// other's sums hold NaN or Inf, which `add` never lets in but memory received from another
  /// process can. Strong exception guarantee.
  void merge(Context& ctx, const HosvdAccumulator& other) {
    require_shape("accumulator", other.out_, other.in_, out_, in_, "out x in of this accumulator");
    if (options_.normalize != other.options_.normalize) {
      throw ValueError("merge: one accumulator normalises its gradients, the other does not");
    }
    require_alike(out_sums_, other.out_sums_, GradientSide::out, other);
    require_alike(in_sums_, other.in_sums_, GradientSide::in, other);
    for (const GradientSide side : {GradientSide::out, GradientSide::in}) {
      const Sums& sums = other.of(side);
      if (!sums.sums.empty() && B::template first_nonfinite<double>(ctx, sums.view()) >= 0) {
        throw NonFiniteError(std::string("merge: the other accumulator's sums of the ") + to_string(side) +
                             " side hold NaN or Inf, expected finite numbers");
      }
    }
    for (const auto& [to, from] :
         {std::pair(&out_sums_, &other.out_sums_), std::pair(&in_sums_, &other.in_sums_)}) {
      if (to->sums.empty()) continue;
      B::template add<double>(ctx, 1.0, from->view(), to->view());
    }
    total_energy_ += other.total_energy_;
    count_ += other.count_;
  }

  /// Sums over processes that have each added gradients of their own: afterwards as if all had been
  /// added here. `sum(view, lower)` makes a contiguous matrix of doubles, in backend memory, the sum
  /// over the processes; `lower`: its lower triangle alone has a meaning. Called for each side that
  /// has sums, then for their number and energy. What it throws leaves sums of no use: call clear.
  /// Throws NonFiniteError when the energy leaves the range of double.
  template <class F>
  void reduce(Context& ctx, F&& sum) {
    for (Sums* sums : {&out_sums_, &in_sums_})
      if (!sums->sums.empty()) sum(sums->view(), sums->kind == Kind::gram);
    double host[2] = {static_cast<double>(count_), total_energy_};
    Buffer<double, B> both(ctx, 2);
    B::template upload<double>(ctx, host, both.data(), 2);
    sum(both.matrix(1, 2), false);
    B::template download<double>(ctx, both.data(), host, 2);
    if (!is_finite(host[0]) || !is_finite(host[1]))
      throw NonFiniteError("reduce: the sum of all processes' gradients leaves the range of double");
    count_ = static_cast<index_t>(host[0]);
    total_energy_ = host[1];
  }

  /// Forgets all gradients and keeps the memory.
  void clear(Context& ctx) {
    for (Sums* sums : {&out_sums_, &in_sums_}) {
      if (!sums->sums.empty()) B::template zero<double>(ctx, sums->sums.data(), sums->sums.size());
    }
    count_ = 0;
    total_energy_ = 0;
  }

  /// Whether sums of the side are held.
  bool has_side(GradientSide side) const { return of(side).kind != Kind::none; }
  /// Whether the side is sketched instead of having Gram sums.
  bool sketched(GradientSide side) const { return of(side).kind == Kind::sketch; }
  /// The side's Gram sums [n, n], lower triangle, in backend memory; empty when it has none.
  MatrixView<const double> gram(GradientSide side) const {
    return of(side).kind == Kind::gram ? of(side).view() : MatrixView<const double>();
  }
  /// The side's sketch Y = A Omega [n, s] in backend memory; empty when it has none.
  MatrixView<const double> sketch(GradientSide side) const {
    return of(side).kind == Kind::sketch ? of(side).view() : MatrixView<const double>();
  }
  /// The test matrix Omega [n, s] of a sketched side in backend memory; empty when there is none.
  MatrixView<const T> test_matrix(GradientSide side) const {
    const Sums& sums = of(side);
    if (sums.kind != Kind::sketch) return {};
    return sums.omega.matrix(sums.n, sums.s);
  }
  /// Gives away the memory of a side's Gram sums; the accumulator has no sums of that side from
  /// then on.
  Buffer<double, B> release_gram(GradientSide side) {
    Sums& sums = side == GradientSide::out ? out_sums_ : in_sums_;
    if (sums.kind != Kind::gram) return {};
    sums.kind = Kind::none;
    return std::move(sums.sums);
  }

 private:
  enum class Kind { none, gram, sketch };

  struct Form {
    Kind kind = Kind::none;
    index_t columns = 0;  ///< n, or the sketch's

    index_t bytes_per_row() const {
      return columns * static_cast<index_t>(sizeof(double) + (kind == Kind::sketch ? sizeof(T) : 0));
    }
  };

  struct Sums {
    Kind kind = Kind::none;
    index_t n = 0;
    index_t s = 0;           ///< columns: n, or the sketch's
    Buffer<double, B> sums;  ///< [n, s]
    Buffer<T, B> omega;      ///< [n, s] of a sketch

    index_t bytes() const { return sums.bytes() + omega.bytes(); }
    MatrixView<double> view() { return sums.matrix(n, s); }
    MatrixView<const double> view() const { return sums.matrix(n, s); }
  };

  static constexpr index_t default_sketch_columns = 512;

  const Sums& of(GradientSide side) const { return side == GradientSide::out ? out_sums_ : in_sums_; }

  /// Throws ValueError when the extents or the options are invalid.
  static std::pair<Form, Form> forms(index_t out, index_t in, const Options& options) {
    if (out < 0 || in < 0) {
      throw ValueError("gradients of " + shape_text(out, in) + ", expected extents >= 0 (out x in)");
    }
    if (options.gram_limit_bytes < 0 || options.sketch_columns < 0) {
      throw ValueError("gram_limit_bytes is " + std::to_string(options.gram_limit_bytes) +
                       " and sketch_columns " + std::to_string(options.sketch_columns) + ", expected >= 0");
    }
    return {options.out_side ? form_of(out, GradientSide::out, options) : Form(),
            options.in_side ? form_of(in, GradientSide::in, options) : Form()};
  }

  static Form form_of(index_t n, GradientSide side, const Options& options) {
    // n * n doubles may pass the range of index_t only beyond any memory; the quotient is safe in
    // any case.
    const bool gram = n == 0 || n <= options.gram_limit_bytes / static_cast<index_t>(sizeof(double)) / n;
    if (gram) return {Kind::gram, n};
    const index_t column = n * static_cast<index_t>(sizeof(double) + sizeof(T));
    const index_t most = (std::min)(n, options.gram_limit_bytes / column);
    const index_t columns =
        options.sketch_columns > 0 ? options.sketch_columns : (std::min)(most, default_sketch_columns);
    if (columns < 1 || columns > most) {
      throw ValueError(std::string("sketch of the ") + to_string(side) + " side, extent " +
                       std::to_string(n) + ", of " + std::to_string(std::max<index_t>(columns, 1)) +
                       " columns at " + std::to_string(column) + " bytes each: gram_limit_bytes = " +
                       std::to_string(options.gram_limit_bytes) + " allows " + std::to_string(most));
    }
    return {Kind::sketch, columns};
  }

  void start(Context& ctx, Sums& sums, index_t n, const Form& form) {
    sums.n = n;
    sums.kind = form.kind;
    sums.s = form.columns;
    if (form.kind != Kind::none) sums.sums.resize(ctx, n * sums.s);
    if (form.kind != Kind::sketch) return;
    sums.omega.resize(ctx, n * sums.s);
    std::vector<T> row(static_cast<std::size_t>(sums.s));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < sums.s; ++j) {
        row[static_cast<std::size_t>(j)] = static_cast<T>(
            detail::random_normal(options_.sketch_seed, static_cast<std::uint64_t>(i * sums.s + j)));
      }
      B::template upload<T>(ctx, row.data(), sums.omega.data() + i * sums.s, sums.s);
    }
  }

  /// op none: A = dW dW^T; transpose: A = dW^T dW.
  void accumulate(Context& ctx, Sums& sums, Op op, MatrixView<const T> dw, double weight) {
    if (sums.kind == Kind::gram) B::template gram<T>(ctx, op, dw, weight, sums.view());
    if (sums.kind != Kind::sketch) return;
    const FullPrecision exact(ctx);
    const Op other = op == Op::none ? Op::transpose : Op::none;
    const index_t depth = op == Op::none ? dw.cols : dw.rows;
    auto frame = ctx.frame();
    const MatrixView<T> half = frame.template matrix<T>(depth, sums.s);
    const MatrixView<const T> omega = std::as_const(sums.omega).matrix(sums.n, sums.s);
    B::template gemm<T>(ctx, other, Op::none, T(1), dw, omega, T(0), half);
    const index_t step = std::min<index_t>(sums.n, 512);
    const MatrixView<T> memory = frame.template matrix<T>(step, sums.s);
    for (index_t first = 0; first < sums.n; first += step) {
      const index_t rows = (std::min)(step, sums.n - first);
      const MatrixView<T> part = memory.block(0, 0, rows, sums.s);
      const MatrixView<const T> a =
          op == Op::none ? dw.block(first, 0, rows, dw.cols) : dw.block(0, first, dw.rows, rows);
      B::template gemm<T>(ctx, op, Op::none, T(1), a, half, T(0), part);
      B::template add_wide<T>(ctx, weight, part, sums.view().block(first, 0, rows, sums.s));
    }
  }

  /// Power of two for entries whose squares would leave T's range or its normal numbers; 0 for
  /// ordinary ones.
  static int scale_exponent(double energy) {
    constexpr double high = sizeof(T) == 4 ? 1e30 : 1e290;
    constexpr double low = sizeof(T) == 4 ? 1e-22 : 1e-280;
    constexpr int most = sizeof(T) == 4 ? 120 : 1000;
    return energy > low && energy < high ? 0 : std::clamp(-std::ilogb(energy) / 2, -most, most);
  }

  [[noreturn]] void refuse(Context& ctx, MatrixView<const T> dw) const {
    const index_t at = B::template first_nonfinite<T>(ctx, dw);
    const std::string name = "gradient " + std::to_string(count_);
    if (at < 0) {
      throw NonFiniteError(name + " has a squared norm beyond the range of double; the sums are unchanged");
    }
    T value{};
    const index_t row = at / dw.cols;
    const index_t col = at % dw.cols;
    B::template download<T>(ctx, dw.row(row) + col, &value, 1);
    throw NonFiniteError(name + " has " + (is_nan(value) ? "NaN" : "Inf") + " at (" + std::to_string(row) +
                         ", " + std::to_string(col) + "); the sums are unchanged");
  }

  void require_alike(const Sums& a, const Sums& b, GradientSide side, const HosvdAccumulator& other) const {
    const auto text = [](const Sums& sums) {
      if (sums.kind == Kind::none) return std::string("nothing");
      if (sums.kind == Kind::gram) return std::string("Gram sums");
      return "a sketch of " + std::to_string(sums.s) + " columns";
    };
    if (a.kind != b.kind || a.s != b.s) {
      throw ValueError(std::string("merge: on the ") + to_string(side) + " side one accumulator holds " +
                       text(a) + ", the other " + text(b));
    }
    if (a.kind == Kind::sketch && options_.sketch_seed != other.options_.sketch_seed) {
      throw ValueError(std::string("merge: the sketches of the ") + to_string(side) +
                       " side have the seeds " + std::to_string(options_.sketch_seed) + " and " +
                       std::to_string(other.options_.sketch_seed));
    }
  }

  index_t out_ = 0;
  index_t in_ = 0;
  Options options_;
  index_t count_ = 0;
  double total_energy_ = 0;
  Sums out_sums_;
  Sums in_sums_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
