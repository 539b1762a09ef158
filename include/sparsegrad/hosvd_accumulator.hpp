// HosvdAccumulator: what a HOSVD needs to know of a stream of gradients, without keeping them.
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
#include "core/random.hpp"
#include "default_backend.hpp"

namespace sparsegrad {

/// The two sides of a gradient [out, in].
enum class GradientSide { out, in };

/// "out", "in"
inline const char* to_string(GradientSide side) {
  return side == GradientSide::out ? "out" : "in";
}

struct HosvdOptions {
  bool out_side = true;                           ///< whether a basis of the out side will be fitted
  bool in_side = true;                            ///< the same for the in side
  bool normalize = false;                         ///< each gradient is divided by its Frobenius norm first
  index_t gram_limit_bytes = index_t{512} << 20;  ///< a side; one whose Gram matrix is larger is sketched
  index_t sketch_columns = 0;     ///< s; 0: the most that the limit allows, at most 512 and the extent
  std::uint64_t sketch_seed = 1;  ///< of the test matrix Omega
};

/// Sums over a stream of gradients G_i [out, in] with weights w_i from which TuckerBasis::fit computes the
/// HOSVD of their stack (De Lathauwer, De Moor, Vandewalle, "A multilinear singular value decomposition",
/// SIAM J. Matrix Anal. Appl. 21(4), 2000; the stack mode is not decomposed, as in SparseGrad, Chekalina et
/// al. 2024). The singular vectors of an unfolding are the eigenvectors of its Gram matrix:
///     out side   sum_i w_i G_i G_i^T   [out, out]
///     in side    sum_i w_i G_i^T G_i   [in, in]
/// Products in T, sums in double (lower triangle). Nothing is allocated for a side that is not wanted.
///
/// A side whose Gram matrix A [n, n] would exceed `gram_limit_bytes` gets a linear sketch Y = A Omega [n, s]
/// instead, Omega normal numbers by seed (Tropp, Yurtsever, Udell, Cevher, "Fixed-rank approximation of a
/// positive-semidefinite matrix from streaming data", NIPS 2017). It gives up to s vectors; good ones, up to
/// about s / 2.
template <class T, Backend B = DefaultBackend>
class HosvdAccumulator {
 public:
  using Context = typename B::Context;
  using Options = HosvdOptions;

  /// Throws ValueError when an extent is negative, or a sketch does not fit under the limit.
  HosvdAccumulator(Context& ctx, index_t out, index_t in, Options options = {})
      : out_(out), in_(in), options_(options) {
    if (out < 0 || in < 0) {
      throw ValueError("gradients of " + shape_text(out, in) + ", expected extents >= 0 (out x in)");
    }
    if (options.gram_limit_bytes < 0 || options.sketch_columns < 0) {
      throw ValueError("gram_limit_bytes is " + std::to_string(options.gram_limit_bytes) +
                       " and sketch_columns " + std::to_string(options.sketch_columns) + ", expected >= 0");
    }
    if (options.out_side) start(ctx, out_sums_, out, GradientSide::out);
    if (options.in_side) start(ctx, in_sums_, in, GradientSide::in);
  }

  index_t out_extent() const { return out_; }
  index_t in_extent() const { return in_; }
  const Options& options() const { return options_; }
  /// Gradients added.
  index_t count() const { return count_; }
  /// sum_i w_i ||G_i||^2 (normalised gradients: sum of the weights), in double.
  double total_energy() const { return total_energy_; }
  /// Bytes stored.
  index_t bytes() const { return out_sums_.bytes() + in_sums_.bytes(); }
  /// What `bytes` of an accumulator with these extents and options will be, without making one.
  static index_t bytes_for(index_t out, index_t in, const Options& options = {}) {
    return (options.out_side ? side_bytes(out, options) : 0) +
           (options.in_side ? side_bytes(in, options) : 0);
  }

  /// Adds one gradient with its weight. Throws ShapeError; ValueError unless the weight is finite and >= 0;
  /// NonFiniteError, naming the gradient's number (from 0) and the first position, when it holds NaN or Inf
  /// or its norm is beyond double. The sums are then as before.
  void add(Context& ctx, ConstMatrixView<T> dw, double weight = 1) {
    if (!add_if_finite(ctx, dw, weight)) refuse(ctx, dw);
  }
  /// The same, but of a gradient that `add` refuses with NonFiniteError says so by false.
  bool add_if_finite(Context& ctx, ConstMatrixView<T> dw, double weight = 1) {
    require_shape("gradient", dw.rows, dw.cols, out_, in_, "out x in of the accumulator");
    if (!(weight >= 0) || !std::isfinite(weight)) {
      throw ValueError("weight of gradient " + std::to_string(count_) + " is " + std::to_string(weight) +
                       ", expected finite and >= 0");
    }
    const double energy = dw.empty() ? 0.0 : B::template squared_norm<T>(ctx, dw);
    if (!std::isfinite(energy)) return false;
    if (energy > 0 && weight > 0) {
      auto frame = ctx.frame();
      // Squares of very small or large entries leave the range of T: a power of two brings them back.
      const int shift = scale_exponent(energy);
      if (shift != 0) {
        const MatrixView<T> scaled = frame.template matrix<T>(dw.rows, dw.cols);
        B::template copy<T>(ctx, dw, scaled);
        B::template scale<T>(ctx, static_cast<T>(std::ldexp(1.0, shift)), scaled);
        dw = scaled;
      }
      const double product_weight =
          options_.normalize ? weight / std::ldexp(energy, 2 * shift) : std::ldexp(weight, -2 * shift);
      accumulate(ctx, out_sums_, Op::none, dw, product_weight);
      accumulate(ctx, in_sums_, Op::transpose, dw, product_weight);
    }
    total_energy_ += options_.normalize && energy > 0 ? weight : weight * energy;
    ++count_;
    return true;
  }

  /// Adds the sums of another accumulator: the same as its gradients added here, to the rounding of double.
  /// Throws ShapeError when the extents differ, ValueError when the sides, the normalisation or their form
  /// (Gram sums, sketch, its columns and seed) do, NonFiniteError when the other's sums hold NaN or Inf (from another
  /// process, say: `add` lets none in); nothing has changed then.
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

  /// Back to no gradients; keeps the memory.
  void clear(Context& ctx) {
    for (Sums* sums : {&out_sums_, &in_sums_}) {
      if (!sums->sums.empty()) B::template zero<double>(ctx, sums->sums.data(), sums->sums.size());
    }
    count_ = 0;
    total_energy_ = 0;
  }

  /// Whether the side was asked for.
  bool has_side(GradientSide side) const { return of(side).form != Form::none; }
  /// Whether the side is sketched.
  bool sketched(GradientSide side) const { return of(side).form == Form::sketch; }
  /// Gram sums [n, n], lower triangle; empty when the side has none. Backend memory.
  MatrixView<const double> gram(GradientSide side) const {
    return of(side).form == Form::gram ? of(side).view() : MatrixView<const double>();
  }
  /// Sketch Y = A Omega [n, s]; empty when the side has none. Backend memory.
  MatrixView<const double> sketch(GradientSide side) const {
    return of(side).form == Form::sketch ? of(side).view() : MatrixView<const double>();
  }
  /// Omega [n, s] of a sketched side, else empty. Backend memory.
  MatrixView<const T> test_matrix(GradientSide side) const {
    const Sums& sums = of(side);
    if (sums.form != Form::sketch) return {};
    return sums.omega.matrix(sums.n, sums.s);
  }
  /// Gives away the memory of a side's Gram sums; the side counts as not asked for from then on.
  Buffer<double, B> release_gram(GradientSide side) {
    Sums& sums = side == GradientSide::out ? out_sums_ : in_sums_;
    if (sums.form != Form::gram) return {};
    sums.form = Form::none;
    return std::move(sums.sums);
  }

 private:
  enum class Form { none, gram, sketch };

  struct Sums {
    Form form = Form::none;
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

  /// n * n doubles may pass the range of index_t only beyond any memory; the quotient is safe in any case.
  static bool is_gram(index_t n, const Options& options) {
    return n == 0 || n <= options.gram_limit_bytes / static_cast<index_t>(sizeof(double)) / n;
  }
  /// Bytes of a column of the sketch and of Omega.
  static index_t column_bytes(index_t n) { return n * static_cast<index_t>(sizeof(double) + sizeof(T)); }
  static index_t sketch_columns(index_t n, const Options& options) {
    if (options.sketch_columns > 0) return options.sketch_columns;
    return std::min({n, options.gram_limit_bytes / column_bytes(n), default_sketch_columns});
  }
  static index_t side_bytes(index_t n, const Options& options) {
    if (is_gram(n, options)) return n * n * static_cast<index_t>(sizeof(double));
    return sketch_columns(n, options) * column_bytes(n);
  }

  void start(Context& ctx, Sums& sums, index_t n, GradientSide side) {
    sums.n = n;
    if (is_gram(n, options_)) {
      sums.form = Form::gram;
      sums.s = n;
      sums.sums.resize(ctx, n * n);
      return;
    }
    const index_t column = column_bytes(n);
    const index_t most = std::min(n, options_.gram_limit_bytes / column);
    sums.form = Form::sketch;
    sums.s = sketch_columns(n, options_);
    if (sums.s < 1 || sums.s > most) {
      throw ValueError(std::string("sketch of the ") + to_string(side) + " side, extent " +
                       std::to_string(n) + ", of " + std::to_string(std::max<index_t>(sums.s, 1)) +
                       " columns at " + std::to_string(column) + " bytes each: gram_limit_bytes = " +
                       std::to_string(options_.gram_limit_bytes) + " allows " + std::to_string(most));
    }
    sums.sums.resize(ctx, n * sums.s);
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
    if (sums.form == Form::gram) B::template gram<T>(ctx, op, dw, weight, sums.view());
    if (sums.form != Form::sketch) return;
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
      const index_t rows = std::min(step, sums.n - first);
      const MatrixView<T> part = memory.block(0, 0, rows, sums.s);
      const MatrixView<const T> a =
          op == Op::none ? dw.block(first, 0, rows, dw.cols) : dw.block(0, first, dw.rows, rows);
      B::template gemm<T>(ctx, op, Op::none, T(1), a, half, T(0), part);
      B::template add_wide<T>(ctx, weight, part, sums.view().block(first, 0, rows, sums.s));
    }
  }

  /// Power of two for entries whose squares would leave T's range or its normal numbers; 0 for ordinary ones.
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
    B::template download<T>(ctx, dw.row(at / in_) + at % in_, &value, 1);
    throw NonFiniteError(name + " has " + (std::isnan(value) ? "NaN" : "Inf") + " at (" +
                         std::to_string(at / in_) + ", " + std::to_string(at % in_) +
                         "); the sums are unchanged");
  }

  void require_alike(const Sums& a, const Sums& b, GradientSide side, const HosvdAccumulator& other) const {
    const auto text = [](const Sums& sums) {
      if (sums.form == Form::none) return std::string("nothing");
      if (sums.form == Form::gram) return std::string("Gram sums");
      return "a sketch of " + std::to_string(sums.s) + " columns";
    };
    if (a.form != b.form || a.s != b.s) {
      throw ValueError(std::string("merge: on the ") + to_string(side) + " side one accumulator holds " +
                       text(a) + ", the other " + text(b));
    }
    if (a.form == Form::sketch && options_.sketch_seed != other.options_.sketch_seed) {
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

}  // namespace sparsegrad
