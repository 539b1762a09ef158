// BasisSide: the change of basis of one side, a matrix U [n, r] with orthonormal columns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/buffer.hpp"
#include "core/number.hpp"
#include "core/orthonormalize.hpp"
#include "core/random.hpp"
#include "core/wait.hpp"
#include "default_backend.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Kind of matrix that a side's U is.
enum class SideKind {
  identity,  ///< U = I; nothing is stored
  factor,    ///< U stored, from gradients or from the caller
  hadamard,  ///< U^T is a randomised block Hadamard transform of full rank; its signs are stored
  random,    ///< U stored, random orthonormal
};

/// The kind's name: "identity", "factor", "hadamard" or "random".
inline const char* to_string(SideKind kind) {
  switch (kind) {
    case SideKind::identity:
      return "identity";
    case SideKind::factor:
      return "factor";
    case SideKind::hadamard:
      return "hadamard";
    case SideKind::random:
      return "random";
  }
  return "?";
}

/// Change of basis of one side of a gradient: a matrix U [n, r], r <= n, with orthonormal columns
/// (U^T U = I).
///
///     const auto side = BasisSide<float>::random(ctx, 768, 64, 1);
///     side.project_columns(ctx, g, core);  // core [t, 64] = g [t, 768] U
///
/// Immutable once made. A stored U lies transposed, [r, n]: row i is basis vector i, contiguous,
/// which is what expanding sparse updates reads.
///
/// The Hadamard transform of extent n = m b, b the largest power of two that divides n, is
///
///     U^T = H = ((I - 2/m 1 1^T) (x) H_b) diag(signs)
///
/// with H_b the orthonormal Hadamard matrix and a Householder reflection that mixes the m blocks
/// (none for m = 1). It mixes within blocks of b: for an odd extent (b = 1) it is I - 2/n 1 1^T,
/// which moves every entry by no more than 2/n of the sum, and for n = 2 mod 4 little more. Prefer
/// `random` there.
///
/// Products cost O(t n r) with a stored U and O(t n log n) with the Hadamard transform. They check
/// extents (ShapeError), allocate nothing but the context's scratch, and require inputs and outputs
/// that do not overlap.
///
/// A side can be used with other contexts as soon as it is returned: pending work on it is finished
/// by then. A side that took over a buffer (`adopt_rows`) is ready when that buffer is.
template <class T, Backend B = DefaultBackend>
class BasisSide {
 public:
  /// The backend's context.
  using Context = typename B::Context;

  /// The identity of extent 0.
  BasisSide() = default;

  /// The identity U = I [n, n]. Throws ValueError when n < 0.
  static BasisSide identity(index_t n) {
    require_extent(n);
    BasisSide side;
    side.extent_ = side.rank_ = n;
    return side;
  }

  /// Copies U [n, r] from backend memory, any row stride. Orthonormality is not checked here but by
  /// TuckerBasis.
  /// Throws ValueError when r > n.
  static BasisSide from_factor(Context& ctx, ConstMatrixView<T> u) {
    BasisSide side = stored(ctx, SideKind::factor, u.rows, u.cols);
    if (!u.empty()) B::template transpose<T>(ctx, u, side.factor_.matrix(u.cols, u.rows));
    wait_for(ctx);
    return side;
  }
  /// Copies U^T [r, n] from backend memory, any row stride. Throws ValueError when r > n or `kind`
  /// stores no factor.
  static BasisSide from_rows(Context& ctx, ConstMatrixView<T> u_rows, SideKind kind = SideKind::factor) {
    BasisSide side = stored(ctx, kind, u_rows.cols, u_rows.rows);
    if (!u_rows.empty()) {
      B::template copy<T>(ctx, u_rows, side.factor_.matrix(u_rows.rows, u_rows.cols));
    }
    wait_for(ctx);
    return side;
  }
  /// Copies U^T [r, n], contiguous, from host memory, which is what `host_factor` returns and files
  /// hold.
  /// Throws ValueError when r > n or `kind` stores no factor, ShapeError when the number of
  /// elements is not r n.
  static BasisSide from_host_rows(Context& ctx, index_t rank, index_t extent, std::span<const T> u_rows,
                                  SideKind kind = SideKind::factor) {
    BasisSide side = stored(ctx, kind, extent, rank);
    if (static_cast<index_t>(u_rows.size()) != rank * extent) {
      throw ShapeError("factor has " + std::to_string(u_rows.size()) +
                       " elements, expected rank * extent = " + std::to_string(rank) + " * " +
                       std::to_string(extent));
    }
    if (rank * extent > 0) {
      B::template upload<T>(ctx, u_rows.data(), side.factor_.data(), rank * extent);
    }
    return side;
  }
  /// Takes over the buffer of U^T [r, n], contiguous. Throws as `from_host_rows`.
  static BasisSide adopt_rows(index_t rank, index_t extent, Buffer<T, B> u_rows,
                              SideKind kind = SideKind::factor) {
    require_rank(rank, extent);
    require_stored(kind);
    if (u_rows.size() != rank * extent) {
      throw ShapeError("factor has " + std::to_string(u_rows.size()) +
                       " elements, expected rank * extent = " + std::to_string(rank) + " * " +
                       std::to_string(extent));
    }
    BasisSide side;
    side.kind_ = kind;
    side.extent_ = extent;
    side.rank_ = rank;
    side.factor_ = std::move(u_rows);
    return side;
  }

  /// The randomised block Hadamard transform of extent n with the signs of `seed`. Throws
  /// ValueError when n < 0.
  static BasisSide hadamard(Context& ctx, index_t n, std::uint64_t seed) {
    require_extent(n);
    std::vector<T> signs(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) {
      const auto e = static_cast<std::size_t>(i);
      signs[e] = (detail::random_bits(seed, e) >> 63) != 0 ? T(-1) : T(1);
    }
    return hadamard_from_signs(ctx, signs);
  }
  /// The block Hadamard transform with the given signs, in host memory. Throws ValueError unless
  /// each is 1 or -1.
  static BasisSide hadamard_from_signs(Context& ctx, std::span<const T> signs) {
    for (std::size_t i = 0; i < signs.size(); ++i) {
      if (signs[i] != T(1) && signs[i] != T(-1)) {
        throw ValueError("sign " + std::to_string(i) + " of a Hadamard side is " + number_text(signs[i]) +
                         ", expected 1 or -1");
      }
    }
    BasisSide side;
    side.kind_ = SideKind::hadamard;
    side.extent_ = side.rank_ = static_cast<index_t>(signs.size());
    side.signs_.resize(ctx, side.extent_);
    if (side.extent_ > 0) B::template upload<T>(ctx, signs.data(), side.signs_.data(), side.extent_);
    return side;
  }

  /// r random orthonormal vectors, uniform over all such (QR of normal numbers). O(n r^2). A
  /// function of the seed and the extents, the same on every machine to rounding. Throws ValueError
  /// when r > n.
  static BasisSide random(Context& ctx, index_t n, index_t r, std::uint64_t seed) {
    BasisSide side = stored(ctx, SideKind::random, n, r);
    if (n == 0 || r == 0) return side;
    Buffer<double, B> rows(ctx, r * n);
    detail::random_orthonormal_rows<B>(ctx, seed, rows.matrix(r, n));
    if constexpr (requires {
                    B::template round_rows<T>(ctx, rows.matrix(r, n), false, side.factor_.matrix(r, n));
                  }) {
      B::template round_rows<T>(ctx, rows.matrix(r, n), false, side.factor_.matrix(r, n));
      wait_for(ctx);
      return side;
    }
    std::vector<double> host(static_cast<std::size_t>(n));
    std::vector<T> rounded(static_cast<std::size_t>(n));
    for (index_t i = 0; i < r; ++i) {
      B::template download<double>(ctx, rows.data() + i * n, host.data(), n);
      for (std::size_t j = 0; j < host.size(); ++j)
        rounded[j] = static_cast<T>(host[j]);
      B::template upload<T>(ctx, rounded.data(), side.factor_.data() + i * n, n);
    }
    return side;
  }

  /// The kind of U.
  SideKind kind() const { return kind_; }
  /// Extent n of the gradient on this side.
  index_t extent() const { return extent_; }
  /// Extent r of the core on this side.
  index_t rank() const { return rank_; }
  /// Whether U is other than the identity.
  bool rotates() const { return kind_ != SideKind::identity; }
  /// Whether U is stored (factor, random).
  bool has_factor() const { return kind_ == SideKind::factor || kind_ == SideKind::random; }
  /// Bytes of backend memory held.
  index_t bytes() const { return factor_.bytes() + signs_.bytes(); }

  /// The stored U^T [r, n] in backend memory; empty unless the kind is factor or random.
  MatrixView<const T> factor() const {
    if (!has_factor()) return {};
    return factor_.matrix(rank_, extent_);
  }
  /// The stored signs [n] in backend memory; null unless the kind is hadamard.
  const T* signs() const { return signs_.data(); }

  /// A host copy of the stored U^T [r, n]; empty unless the kind is factor or random.
  std::vector<T> host_factor(Context& ctx) const { return to_host(ctx, factor_); }
  /// A host copy of the stored signs [n]; empty unless the kind is hadamard.
  std::vector<T> host_signs(Context& ctx) const { return to_host(ctx, signs_); }

  /// A copy in the same backend's memory.
  BasisSide clone(Context& ctx) const { return to<B>(ctx, ctx); }
  /// A copy in another backend's memory.
  template <class Other>
  BasisSide<T, Other> to(Context& ctx, typename Other::Context& other_ctx) const {
    if (kind_ == SideKind::identity) return BasisSide<T, Other>::identity(extent_);
    if (kind_ == SideKind::hadamard) {
      return BasisSide<T, Other>::hadamard_from_signs(other_ctx, host_signs(ctx));
    }
    return BasisSide<T, Other>::from_host_rows(other_ctx, rank_, extent_, host_factor(ctx), kind_);
  }

  /// Projects the columns of a matrix: Y = A U, A [t, n], Y [t, r].
  void project_columns(Context& ctx, ConstMatrixView<T> a, MatrixView<T> y) const {
    require_shape("A", a.rows, a.cols, a.rows, extent_, "rows x extent of the side");
    require_shape("A U", y.rows, y.cols, a.rows, rank_, "rows x rank of the side");
    if (y.empty()) return;
    if (has_factor()) {
      return B::template gemm<T>(ctx, Op::none, Op::transpose, T(1), a, factor(), T(0), y);
    }
    B::template copy<T>(ctx, a, y);
    // A row times U = H^T is H times that row.
    if (rotates()) {
      B::template hadamard<T>(ctx, signs(), false, TransformSide::rows, y);
    }
  }

  /// Projects the rows of a matrix: Y = U^T A, A [n, t], Y [r, t].
  void project_rows(Context& ctx, ConstMatrixView<T> a, MatrixView<T> y) const {
    require_shape("A", a.rows, a.cols, extent_, a.cols, "extent of the side x columns");
    require_shape("U^T A", y.rows, y.cols, rank_, a.cols, "rank of the side x columns");
    if (y.empty()) return;
    if (has_factor()) {
      return B::template gemm<T>(ctx, Op::none, Op::none, T(1), factor(), a, T(0), y);
    }
    B::template copy<T>(ctx, a, y);
    if (rotates()) {
      B::template hadamard<T>(ctx, signs(), false, TransformSide::columns, y);
    }
  }

  /// Expands columns: A = Y U^T + beta A, Y [t, r], A [t, n]. beta = 0 overwrites A, NaN included.
  void expand_columns(Context& ctx, ConstMatrixView<T> y, T beta, MatrixView<T> a) const {
    require_shape("A", a.rows, a.cols, a.rows, extent_, "rows x extent of the side");
    require_shape("Y", y.rows, y.cols, a.rows, rank_, "rows x rank of the side");
    if (a.empty()) return;
    if (has_factor()) {
      return B::template gemm<T>(ctx, Op::none, Op::none, T(1), y, factor(), beta, a);
    }
    if (!rotates() || beta == T(0)) {
      add(ctx, y, beta, a);
      if (rotates()) B::template hadamard<T>(ctx, signs(), true, TransformSide::rows, a);
      return;
    }
    const index_t step = std::clamp<index_t>(expand_chunk / extent_, 1, a.rows);
    auto frame = ctx.frame();
    const MatrixView<T> memory = frame.template matrix<T>(step, extent_);
    for (index_t first = 0; first < a.rows; first += step) {
      const index_t rows = (std::min)(step, a.rows - first);
      const MatrixView<T> part = memory.block(0, 0, rows, extent_);
      B::template copy<T>(ctx, y.block(first, 0, rows, extent_), part);
      B::template hadamard<T>(ctx, signs(), true, TransformSide::rows, part);
      add(ctx, part, beta, a.block(first, 0, rows, extent_));
    }
  }

  /// Expands rows: A = U Y + beta A, Y [r, t], A [n, t]. beta = 0 overwrites A, NaN included.
  void expand_rows(Context& ctx, ConstMatrixView<T> y, T beta, MatrixView<T> a) const {
    require_shape("A", a.rows, a.cols, extent_, a.cols, "extent of the side x columns");
    require_shape("Y", y.rows, y.cols, rank_, a.cols, "rank of the side x columns");
    if (a.empty()) return;
    if (has_factor()) {
      return B::template gemm<T>(ctx, Op::transpose, Op::none, T(1), factor(), y, beta, a);
    }
    if (!rotates() || beta == T(0)) {
      add(ctx, y, beta, a);
      if (rotates()) B::template hadamard<T>(ctx, signs(), true, TransformSide::columns, a);
      return;
    }
    const index_t step = std::clamp<index_t>(expand_chunk / extent_, 1, a.cols);
    auto frame = ctx.frame();
    const MatrixView<T> memory = frame.template matrix<T>(extent_, step);
    for (index_t first = 0; first < a.cols; first += step) {
      const index_t cols = (std::min)(step, a.cols - first);
      const MatrixView<T> part = memory.block(0, 0, extent_, cols);
      B::template copy<T>(ctx, y.block(0, first, extent_, cols), part);
      B::template hadamard<T>(ctx, signs(), true, TransformSide::columns, part);
      add(ctx, part, beta, a.block(0, first, extent_, cols));
    }
  }

 private:
  /// Elements that a Hadamard side expands at a time: bounds the scratch memory.
  static constexpr index_t expand_chunk = index_t{1} << 20;

  static void require_extent(index_t n) {
    if (n < 0) throw ValueError("extent of a basis side is " + std::to_string(n) + ", expected >= 0");
  }
  static void require_rank(index_t r, index_t n) {
    require_extent(n);
    if (r < 0 || r > n) {
      throw ValueError("rank of a basis side is " + std::to_string(r) +
                       ", expected 0 <= rank <= extent = " + std::to_string(n));
    }
  }
  static void require_stored(SideKind kind) {
    if (kind != SideKind::factor && kind != SideKind::random) {
      throw ValueError(std::string("a side of kind ") + to_string(kind) + " has no factor");
    }
  }
  static BasisSide stored(Context& ctx, SideKind kind, index_t n, index_t r) {
    require_rank(r, n);
    return adopt_rows(r, n, Buffer<T, B>(ctx, r * n), kind);
  }
  static std::vector<T> to_host(Context& ctx, const Buffer<T, B>& buffer) {
    std::vector<T> host(static_cast<std::size_t>(buffer.size()));
    if (!host.empty()) B::template download<T>(ctx, buffer.data(), host.data(), buffer.size());
    return host;
  }
  /// A = Y + beta A, same shape.
  static void add(Context& ctx, ConstMatrixView<T> y, T beta, MatrixView<T> a) {
    if (beta == T(0)) return B::template copy<T>(ctx, y, a);
    if (beta != T(1)) B::template scale<T>(ctx, beta, a);
    B::template add<T>(ctx, T(1), y, a);
  }

  SideKind kind_ = SideKind::identity;
  index_t extent_ = 0;
  index_t rank_ = 0;
  Buffer<T, B> factor_;  ///< U^T [r, n]
  Buffer<T, B> signs_;   ///< [n]
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
