// Kernels whose threads work together in blocks, in a form that a host can run too.
#pragma once

#include <cstring>
#include <utility>

#include "portable.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::portable {

// A block kernel K is a copyable object with
//     static constexpr int threads              threads of a block
//     static constexpr int phases               every thread ends one before any begins the next
//     struct Shared                             memory that a block's threads share, uninitialised
//     template <int P> void phase(index_t block, int thread, Shared&) const
// What a thread is to remember from phase to phase stands in Shared. The GPU runs it with a barrier
// after each phase; the host runs the threads of a phase one after the other, which shows wrong
// indices and sums, though not a missing atomic.

/// Runs blocks [0, blocks) one after the other.
template <class K>
void run_blocks_on_host(index_t blocks, const K& kernel) {
  for (index_t block = 0; block < blocks; ++block) {
    typename K::Shared shared;
    std::memset(static_cast<void*>(&shared), 0xa5,
                sizeof shared);  // what was not written gives the same every time
    const auto phase = [&]<int P>() {
      for (int thread = 0; thread < K::threads; ++thread)
        kernel.template phase<P>(block, thread, shared);
    };
    [&]<int... P>(std::integer_sequence<int, P...>) {
      (phase.template operator()<P>(), ...);
    }
    (std::make_integer_sequence<int, K::phases>());
  }
}

#if defined(__CUDACC__)

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700
#error \
    "sparsegrad needs GPUs of compute capability 7.0 or newer: set CMAKE_CUDA_ARCHITECTURES or nvcc's -arch (nvcc 12 takes sm_52 where nothing is said)"
#endif

template <int P, class K>
__device__ void run_phases(const K& kernel, index_t block, typename K::Shared& shared) {
  if constexpr (P < K::phases) {
    kernel.template phase<P>(block, static_cast<int>(threadIdx.x), shared);
    if constexpr (P + 1 < K::phases) __syncthreads();
    run_phases<P + 1>(kernel, block, shared);
  }
}

/// Whether all code of this unit is for GPUs whose kernels can wait for the one before them
/// themselves. nvcc names the architectures; graphs have known such launches since CUDA 12.3.
#if defined(__CUDA_ARCH_LIST__) && CUDART_VERSION >= 12030
inline constexpr bool kernels_wait = [] {
  for (const int architecture : {__CUDA_ARCH_LIST__})
    if (architecture < 900) return false;
  return true;
}();
#else
inline constexpr bool kernels_wait = false;
#endif

/// The next kernel may be brought to the GPU while this one still runs; then waits for what the one
/// before has done, which in turn had waited. Without such launches it does nothing.
__device__ inline void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}

/// Internal linkage: two libraries that hold the same kernel do not meet. The kernel's data is read
/// where the launch put it: a copy in every thread would cost more than many of them do. The number
/// of phases stands in the kernel's name, where a check of the machine code finds it.
template <class K, int Phases = K::phases>
static __global__ void __launch_bounds__(K::threads) block_kernel(const __grid_constant__ K kernel) {
  __shared__ typename K::Shared shared;
  wait_for_previous_kernel();
  run_phases<0>(kernel, static_cast<index_t>(blockIdx.x), shared);
}

#endif

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::portable
