// Tiles of sums that the lanes of a warp hold in their registers, and products that add to them: of numbers of 16 bits on
// tensor cores, of float by multiply-adds.
#pragma once

#include <cstdint>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>

#include "lanes.cuh"
#include "packs.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "attention multiplies by mma.m16n8k16: it needs GPUs of compute capability 8.0 or newer"
#endif

namespace sparsegrad::finetune::device {

/// A number for each row of a tile: a lane has those of the rows of which it holds a part, by slots.
template <class V>
struct WarpRows {
#if defined(SPARSEGRAD_LANES)
  static constexpr int slots = 2;
#else
  static constexpr int slots = 16;
#endif
  V x[slots];

  SPARSEGRAD_HOST_DEVICE V& operator[](int slot) {
    return x[slot];
  }
  SPARSEGRAD_HOST_DEVICE const V& operator[](int slot) const {
    return x[slot];
  }

  /// The row of a slot.
  SPARSEGRAD_HOST_DEVICE static int row(int slot) {
    return lane() / 4 + slot * (slots == 2 ? 8 : 1);
  }
  /// x[slot] = f(row).
  template <class F>
  SPARSEGRAD_HOST_DEVICE static WarpRows of(const F& f) {
    WarpRows rows;
    for (int slot = 0; slot < slots; ++slot)
      rows.x[slot] = f(row(slot));
    return rows;
  }
  /// x[slot] = f(slot).
  template <class F>
  SPARSEGRAD_HOST_DEVICE static WarpRows each(const F& f) {
    WarpRows rows;
    for (int slot = 0; slot < slots; ++slot)
      rows.x[slot] = f(slot);
    return rows;
  }
};

/// Lanes that hold parts of one row, and this lane's number among them.
SPARSEGRAD_HOST_DEVICE constexpr int lanes_of_row() {
#if defined(SPARSEGRAD_LANES)
  return 4;
#else
  return 1;
#endif
}
SPARSEGRAD_HOST_DEVICE inline int lane_of_row() {
  return lane() % 4;
}
/// One number from those of the lanes of a row, for all of them.
template <class V, class F>
SPARSEGRAD_HOST_DEVICE V over_row(V x, const F& join) {
#if defined(SPARSEGRAD_LANES)
  x = join(x, of_other_lane(x, 1));
  x = join(x, of_other_lane(x, 2));
#else
  static_cast<void>(join);
#endif
  return x;
}
struct Plus {
  template <class V>
  SPARSEGRAD_HOST_DEVICE V operator()(V a, V b) const {
    return a + b;
  }
};
struct Larger {
  template <class V>
  SPARSEGRAD_HOST_DEVICE V operator()(V a, V b) const {
#if defined(__CUDA_ARCH__)
    return fmax(a, b);
#else
    return b > a ? b : a;
#endif
  }
};

/// 16 x Cols numbers in C. Of each 8 columns a lane holds, as mma.m16n8 leaves them, in rows lane / 4 and lane / 4 + 8 the
/// columns lane % 4 * 2 and the next.
template <class C, int Cols>
class WarpTile {
 public:
  static constexpr int rows = 16;
  static_assert(Cols % 16 == 0);
#if defined(SPARSEGRAD_LANES)
  C x[Cols / 8][4];
#else
  C x[rows][Cols];
#endif

  SPARSEGRAD_HOST_DEVICE void clear() {
    visit([](int, int, int, C& e) { e = C(0); });
  }
  /// f(slot, row, col, number) for the numbers that this lane holds.
  template <class F>
  SPARSEGRAD_HOST_DEVICE void visit(const F& f) {
    visit_two(*this, *this, [&](int slot, int row, int col, C& e, C&) { f(slot, row, col, e); });
  }
  /// The same for two tiles at once.
  template <class F>
  SPARSEGRAD_HOST_DEVICE static void visit_two(WarpTile& a, WarpTile& b, const F& f) {
#if defined(SPARSEGRAD_LANES)
    SPARSEGRAD_UNROLL
    for (int t = 0; t < Cols / 8; ++t) {
      SPARSEGRAD_UNROLL
      for (int e = 0; e < 4; ++e)
        f(e / 2, lane() / 4 + e / 2 * 8, 8 * t + lane() % 4 * 2 + e % 2, a.x[t][e], b.x[t][e]);
    }
#else
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < Cols; ++j)
        f(i, i, j, a.x[i][j], b.x[i][j]);
    }
#endif
  }
  /// to[slot] = join of to[slot] and the row's numbers.
  template <class F>
  SPARSEGRAD_HOST_DEVICE void fold_rows(WarpRows<C>& to, const F& join, C start) {
    WarpRows<C> own = WarpRows<C>::of([&](int) { return start; });
    visit([&](int slot, int, int, C& e) { own[slot] = join(own[slot], e); });
    for (int slot = 0; slot < WarpRows<C>::slots; ++slot)
      to[slot] = join(to[slot], over_row(own[slot], join));
  }
};

/// Products of tiles whose operands lie in shared memory by rows in T, each row aligned to 16 bytes.
template <class T>
struct WarpProduct {
  using C = compute_t<T>;

  /// Elements that `add` needs in shared memory for each warp, of numbers that are not of 16 bits.
  template <int Depth>
  static constexpr int exchange = is_low_precision<T> ? 1 : 16 * (Depth + 4);

  /// s += a b^T with a [16, Depth] and b [Cols, Depth].
  template <int Depth, int Cols>
  SPARSEGRAD_HOST_DEVICE static void add_transposed(const T* a, const T* b, int stride,
                                                    WarpTile<C, Cols>& s) {
#if defined(SPARSEGRAD_LANES)
    if constexpr (is_low_precision<T>) {
      for (int k = 0; k < Depth; k += 16) {
        std::uint32_t left[4];
        std::uint32_t right[4];
        load_matrices<false>(a + lane() % 16 * stride + k + lane() / 16 * 8, left);
        SPARSEGRAD_UNROLL
        for (int n = 0; n < Cols; n += 16) {
          load_matrices<false>(b + (n + lane() % 8 + lane() / 16 * 8) * stride + k + lane() / 8 % 2 * 8,
                               right);
          multiply_tiles<T>(left, right[0], right[1], s.x[n / 8]);
          multiply_tiles<T>(left, right[2], right[3], s.x[n / 8 + 1]);
        }
      }
    } else {
      constexpr int step = 4;
      const T* row = a + lane() / 4 * stride;
      for (int k = 0; k < Depth; k += step) {
        const auto upper = load_pack<T, step>(row + k);
        const auto lower = load_pack<T, step>(row + 8 * stride + k);
        SPARSEGRAD_UNROLL
        for (int n = 0; n < Cols / 8; ++n) {
          for (int e = 0; e < 2; ++e) {
            const auto right = load_pack<T, step>(b + (8 * n + lane() % 4 * 2 + e) * stride + k);
            for (int i = 0; i < step; ++i) {
              s.x[n][e] += upper.x[i] * right.x[i];
              s.x[n][2 + e] += lower.x[i] * right.x[i];
            }
          }
        }
      }
    }
#else
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < Cols; ++j) {
        for (int k = 0; k < Depth; ++k)
          s.x[i][j] += C(a[i * stride + k]) * C(b[j * stride + k]);
      }
    }
#endif
  }

  /// o += p b with p [16, Depth], rounded to T, and b [Depth, Cols]. `memory` (see exchange) is the warp's own, and none of
  /// its lanes reads it any more.
  template <int Depth, int Cols>
  SPARSEGRAD_HOST_DEVICE static void add(const WarpTile<C, Depth>& p, const T* b, int stride, C* memory,
                                         WarpTile<C, Cols>& o) {
#if defined(SPARSEGRAD_LANES)
    if constexpr (is_low_precision<T>) {
      SPARSEGRAD_UNROLL
      for (int k = 0; k < Depth; k += 16) {
        // What a lane holds of two neighbours of 8 columns is what it gives of 16 as a factor.
        const C(&first)[4] = p.x[k / 8];
        const C(&second)[4] = p.x[k / 8 + 1];
        const std::uint32_t left[4] = {round_two<T>(first[0], first[1]), round_two<T>(first[2], first[3]),
                                       round_two<T>(second[0], second[1]),
                                       round_two<T>(second[2], second[3])};
        std::uint32_t right[4];
        SPARSEGRAD_UNROLL
        for (int n = 0; n < Cols; n += 16) {
          load_matrices<true>(b + (k + lane() % 16) * stride + n + lane() / 16 * 8, right);
          multiply_tiles<T>(left, right[0], right[1], o.x[n / 8]);
          multiply_tiles<T>(left, right[2], right[3], o.x[n / 8 + 1]);
        }
      }
    } else {
      constexpr int own = Depth + 4;
      const int row = lane() / 4;
      for (int n = 0; n < Depth / 8; ++n) {
        for (int e = 0; e < 4; ++e)
          memory[(row + e / 2 * 8) * own + 8 * n + lane() % 4 * 2 + e % 2] = p.x[n][e];
      }
      wait_for_warp();
      for (int k = 0; k < Depth; ++k) {
        const C upper = memory[row * own + k];
        const C lower = memory[(row + 8) * own + k];
        SPARSEGRAD_UNROLL
        for (int n = 0; n < Cols / 8; ++n) {
          const auto right = load_pack<T, 2>(b + k * stride + 8 * n + lane() % 4 * 2);
          for (int e = 0; e < 2; ++e) {
            o.x[n][e] += upper * right.x[e];
            o.x[n][2 + e] += lower * right.x[e];
          }
        }
      }
    }
#else
    static_cast<void>(memory);
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < Depth; ++k) {
        const C left = static_cast<T>(p.x[i][k]);
        for (int j = 0; j < Cols; ++j)
          o.x[i][j] += left * C(b[k * stride + j]);
      }
    }
#endif
  }
};

}  // namespace sparsegrad::finetune::device
