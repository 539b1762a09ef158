// Tiles of sums that the lanes of a warp hold in their registers, and products that add to them: of numbers of 16 bits on
// tensor cores, of float by multiply-adds.
//
// On the host the threads of a phase run one after the other. There a block's thread 0 holds all tiles of all its warps
// and does the work of every thread, so that what follows a wait finds what stands before it done.
#pragma once

#include <cstdint>
#include <type_traits>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>

#include "packs.cuh"
#include "tensor_tile.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the decoder's attention multiplies by mma.m16n8k16: it needs GPUs of compute capability 8.0 or newer"
#endif

namespace sparsegrad::finetune::device {

/// The threads of a block share out n pieces of work: for (e = first; e < n; e += step).
struct BlockThread {
  int first, step;

  SPARSEGRAD_HOST_DEVICE BlockThread(int thread, int threads) {
#if defined(__CUDA_ARCH__)
    first = thread;
    step = threads;
#else
    first = thread == 0 ? 0 : 1 << 30;
    step = 1;
    static_cast<void>(threads);
#endif
  }
  SPARSEGRAD_HOST_DEVICE bool works() const {
    return first < (1 << 30);
  }
};

/// What the block's threads wrote to shared memory is there for all of them.
SPARSEGRAD_HOST_DEVICE inline void wait_for_block() {
#if defined(__CUDA_ARCH__)
  __syncthreads();
#endif
}

/// How many of a block's warps one thread stands for, and the first of them.
template <int Warps>
SPARSEGRAD_HOST_DEVICE constexpr int warps_of_thread() {
#if defined(__CUDA_ARCH__)
  return 1;
#else
  return Warps;
#endif
}
SPARSEGRAD_HOST_DEVICE inline int first_warp(int thread) {
#if defined(__CUDA_ARCH__)
  return thread / 32;
#else
  static_cast<void>(thread);
  return 0;
#endif
}
/// Number of this thread within its warp.
SPARSEGRAD_HOST_DEVICE inline int lane() {
#if defined(__CUDA_ARCH__)
  return static_cast<int>(threadIdx.x % 32);
#else
  return 0;
#endif
}

/// Starts a copy of 16 bytes from global to shared memory; it is there after wait_for_copies and a wait for the block.
SPARSEGRAD_HOST_DEVICE inline void start_copy(const void* from, void* to) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(from)
      : "memory");
#else
  memcpy(to, from, 16);
#endif
}
/// The copies since the last call are one group.
SPARSEGRAD_HOST_DEVICE inline void end_group_of_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until no more than the newest `Groups` are on their way.
template <int Groups>
SPARSEGRAD_HOST_DEVICE void wait_for_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#endif
}

/// A number for each row of a tile: a lane has those of the rows of which it holds a part, by slots.
template <class V>
struct WarpRows {
#if defined(__CUDA_ARCH__)
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
#if defined(__CUDA_ARCH__)
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
#if defined(__CUDA_ARCH__)
  x = join(x, __shfl_xor_sync(0xFFFFFFFFU, x, 1));
  x = join(x, __shfl_xor_sync(0xFFFFFFFFU, x, 2));
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
    return b > a ? b : a;
  }
};

/// 16 x Cols numbers in C. Of each 8 columns a lane holds, as mma.m16n8 leaves them, in rows lane / 4 and lane / 4 + 8 the
/// columns lane % 4 * 2 and the next.
template <class C, int Cols>
class WarpTile {
 public:
  static constexpr int rows = 16;
  static_assert(Cols % 16 == 0);
#if defined(__CUDA_ARCH__)
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
#if defined(__CUDA_ARCH__)
#pragma unroll
    for (int t = 0; t < Cols / 8; ++t) {
#pragma unroll
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
#if defined(__CUDA_ARCH__)
    if constexpr (is_low_precision<T>) {
      for (int k = 0; k < Depth; k += 16) {
        std::uint32_t left[4];
        std::uint32_t right[4];
        load<false>(a + lane() % 16 * stride + k + lane() / 16 * 8, left);
#pragma unroll
        for (int n = 0; n < Cols; n += 16) {
          load<false>(b + (n + lane() % 8 + lane() / 16 * 8) * stride + k + lane() / 8 % 2 * 8, right);
          multiply(left, right[0], right[1], s.x[n / 8]);
          multiply(left, right[2], right[3], s.x[n / 8 + 1]);
        }
      }
    } else {
      constexpr int step = 4;
      const T* row = a + lane() / 4 * stride;
      for (int k = 0; k < Depth; k += step) {
        const auto upper = load_pack<T, step>(row + k);
        const auto lower = load_pack<T, step>(row + 8 * stride + k);
#pragma unroll
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

  /// o += p b with p [16, Depth], rounded to T, and b [Depth, Cols].
  template <int Depth, int Cols>
  SPARSEGRAD_HOST_DEVICE static void add(const WarpTile<C, Depth>& p, const T* b, int stride, C* memory,
                                         WarpTile<C, Cols>& o) {
#if defined(__CUDA_ARCH__)
    if constexpr (is_low_precision<T>) {
#pragma unroll
      for (int k = 0; k < Depth; k += 16) {
        // What a lane holds of two neighbours of 8 columns is what it gives of 16 as a factor.
        const C(&first)[4] = p.x[k / 8];
        const C(&second)[4] = p.x[k / 8 + 1];
        const std::uint32_t left[4] = {round_two<T>(first[0], first[1]), round_two<T>(first[2], first[3]),
                                       round_two<T>(second[0], second[1]),
                                       round_two<T>(second[2], second[3])};
        std::uint32_t right[4];
#pragma unroll
        for (int n = 0; n < Cols; n += 16) {
          load<true>(b + (k + lane() % 16) * stride + n + lane() / 16 * 8, right);
          multiply(left, right[0], right[1], o.x[n / 8]);
          multiply(left, right[2], right[3], o.x[n / 8 + 1]);
        }
      }
    } else {
      constexpr int own = Depth + 4;
      const int row = lane() / 4;
      wait_for_warp();
      for (int n = 0; n < Depth / 8; ++n) {
        for (int e = 0; e < 4; ++e)
          memory[(row + e / 2 * 8) * own + 8 * n + lane() % 4 * 2 + e % 2] = p.x[n][e];
      }
      wait_for_warp();
      for (int k = 0; k < Depth; ++k) {
        const C upper = memory[row * own + k];
        const C lower = memory[(row + 8) * own + k];
#pragma unroll
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

 private:
#if defined(__CUDA_ARCH__)
  /// Four 8 x 8 matrices, whose rows the lanes 0-7, 8-15, 16-23 and 24-31 name. A lane gets of each the numbers
  /// lane % 4 * 2 and the next of row lane / 4; `Turned`: of column lane / 4.
  template <bool Turned>
  __device__ static void load(const T* row, std::uint32_t (&to)[4]) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    if constexpr (Turned) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(address)
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(address)
                   : "memory");
    }
  }
  __device__ static void multiply(const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                                  float (&c)[4]) {
    if constexpr (std::is_same_v<T, bfloat16>) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }
#endif
};

}  // namespace sparsegrad::finetune::device
