// Keeps a BLAS library to the calling thread without touching process-wide settings.
#pragma once

#include "../../core/config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::host {

// Of the OpenMP runtime where one is in the process (OpenBLAS built with OpenMP brings it), null
// otherwise. Both act on the calling thread's own setting. Names of their own, since a user's file
// may include <omp.h>, whose declarations differ from compiler to compiler; weak references, which
// do not weaken that file's calls.
static void openmp_set_num_threads(int) __attribute__((weakref("omp_set_num_threads")));
static int openmp_get_max_threads() __attribute__((weakref("omp_get_max_threads")));

/// While alive, a BLAS that asks OpenMP for its number of threads uses `threads` when called from
/// this thread.
class BlasThreads {
 public:
  explicit BlasThreads(int threads) {
    if (openmp_set_num_threads != nullptr && openmp_get_max_threads != nullptr) {
      before_ = openmp_get_max_threads();
      if (before_ != threads) {
        openmp_set_num_threads(threads);
      } else {
        before_ = 0;
      }
    }
  }
  ~BlasThreads() {
    if (before_ > 0) openmp_set_num_threads(before_);
  }
  BlasThreads(const BlasThreads&) = delete;
  BlasThreads& operator=(const BlasThreads&) = delete;

 private:
  int before_ = 0;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::host
