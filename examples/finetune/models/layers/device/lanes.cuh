// What the threads of a warp and of a block do together.
//
// On a GPU a thread is a lane of a warp. On the host the threads of a phase run one after the other: there a block's
// thread 0 does the work of all of them, so that what follows a wait finds what stands before it done. A test that runs
// every thread for itself defines SPARSEGRAD_EMULATED_LANES, includes lane_emulation.hpp first, and compiles what a GPU
// compiles but for the instructions themselves, which are functions of `emulated` then.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>

#if defined(__CUDA_ARCH__) || defined(SPARSEGRAD_EMULATED_LANES)
#define SPARSEGRAD_LANES
#endif
#if defined(__CUDA_ARCH__)
#define SPARSEGRAD_UNROLL _Pragma("unroll")
#else
#define SPARSEGRAD_UNROLL
#endif

// Where a wait stands, for a test that leaves one out.
#if defined(SPARSEGRAD_EMULATED_LANES)
#define SPARSEGRAD_WAIT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#else
#define SPARSEGRAD_WAIT_SITE
#endif

namespace sparsegrad::finetune::device {

/// Number of this thread within its warp.
SPARSEGRAD_HOST_DEVICE inline int lane() {
#if defined(__CUDA_ARCH__)
  return static_cast<int>(threadIdx.x % 32);
#elif defined(SPARSEGRAD_EMULATED_LANES)
  return emulated::thread() % 32;
#else
  return 0;
#endif
}

/// What the warp's threads wrote to shared memory is there for all of them.
SPARSEGRAD_HOST_DEVICE inline void wait_for_warp(SPARSEGRAD_WAIT_SITE) {
#if defined(__CUDA_ARCH__)
  __syncwarp();
#elif defined(SPARSEGRAD_EMULATED_LANES)
  emulated::wait_for_warp(file, line);
#endif
}

/// What the block's threads wrote to shared memory is there for all of them.
SPARSEGRAD_HOST_DEVICE inline void wait_for_block(SPARSEGRAD_WAIT_SITE) {
#if defined(__CUDA_ARCH__)
  __syncthreads();
#elif defined(SPARSEGRAD_EMULATED_LANES)
  emulated::wait_for_block(file, line);
#endif
}

/// Starts a copy of 16 bytes from global to shared memory, or of zeros where nothing is there; they have arrived after
/// wait_for_copies and a wait for the block.
SPARSEGRAD_HOST_DEVICE inline void start_copy(const void* from, void* to, bool there) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 16 : 0)
               : "memory");
#elif defined(SPARSEGRAD_EMULATED_LANES)
  emulated::start_copy(there ? from : nullptr, to);
#else
  if (there) {
    memcpy(to, from, 16);
  } else {
    memset(to, 0, 16);
  }
#endif
}
/// This thread's copies since the last call are one group.
SPARSEGRAD_HOST_DEVICE inline void end_group_of_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif defined(SPARSEGRAD_EMULATED_LANES)
  emulated::end_group_of_copies();
#endif
}
/// Waits until no more than the newest `Groups` of this thread are on their way.
template <int Groups>
SPARSEGRAD_HOST_DEVICE void wait_for_copies(SPARSEGRAD_WAIT_SITE) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#elif defined(SPARSEGRAD_EMULATED_LANES)
  emulated::wait_for_copies(Groups, file, line);
#endif
}

#if defined(SPARSEGRAD_LANES)

/// x of the lane whose number differs in the bits of `mask`.
template <class V>
SPARSEGRAD_HOST_DEVICE V of_other_lane(V x, int mask) {
#if defined(__CUDA_ARCH__)
  return __shfl_xor_sync(0xFFFFFFFFU, x, mask);
#else
  return emulated::of_other_lane(x, mask);
#endif
}

/// Four 8 x 8 matrices of 16-bit numbers in shared memory, whose rows the lanes 0-7, 8-15, 16-23 and 24-31 name, each
/// aligned to 16 bytes. A lane gets of each the numbers lane % 4 * 2 and the next of row lane / 4; `Turned`: of column
/// lane / 4.
template <bool Turned>
SPARSEGRAD_HOST_DEVICE void load_matrices(const void* row, std::uint32_t (&to)[4]) {
#if defined(__CUDA_ARCH__)
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
#else
  emulated::load_matrices(Turned, row, to);
#endif
}

/// c [16, 8] += a [16, 16] b [16, 8], each held by the lanes as mma.m16n8k16 has them.
template <class T>
SPARSEGRAD_HOST_DEVICE void multiply_tiles(const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                                           float (&c)[4]) {
#if defined(__CUDA_ARCH__)
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
#else
  emulated::multiply_tiles<T>(a, b0, b1, c);
#endif
}

#endif

/// The threads of a block share out n pieces of work: for (e = first; e < n; e += step).
struct BlockThread {
  int first, step;

  SPARSEGRAD_HOST_DEVICE BlockThread(int thread, int threads) {
#if defined(SPARSEGRAD_LANES)
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

/// The step of BlockThread, of a block of so many threads.
template <int Threads>
SPARSEGRAD_HOST_DEVICE constexpr int threads_here() {
#if defined(SPARSEGRAD_LANES)
  return Threads;
#else
  return 1;
#endif
}
/// How many of a block's warps one thread stands for, and the first of them.
template <int Warps>
SPARSEGRAD_HOST_DEVICE constexpr int warps_of_thread() {
#if defined(SPARSEGRAD_LANES)
  return 1;
#else
  return Warps;
#endif
}
SPARSEGRAD_HOST_DEVICE inline int first_warp(int thread) {
#if defined(SPARSEGRAD_LANES)
  return thread / 32;
#else
  static_cast<void>(thread);
  return 0;
#endif
}
/// Lanes among which one thread shares out a warp's work.
SPARSEGRAD_HOST_DEVICE constexpr int lanes_of_warp() {
#if defined(SPARSEGRAD_LANES)
  return 32;
#else
  return 1;
#endif
}

}  // namespace sparsegrad::finetune::device
