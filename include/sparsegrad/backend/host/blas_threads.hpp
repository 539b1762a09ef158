// Keeps a BLAS library to the calling thread without touching process-wide settings.
#pragma once

// Present when an OpenMP runtime is in the process (OpenBLAS built with OpenMP brings it), null otherwise.
// Both act on the calling thread's own setting.
extern "C" {
__attribute__((weak)) void omp_set_num_threads(int);
__attribute__((weak)) int omp_get_max_threads(void);
}

namespace sparsegrad::backend::host {

/// While alive, a BLAS that asks OpenMP for its number of threads uses `threads` when called from this
/// thread.
class BlasThreads {
 public:
  explicit BlasThreads(int threads) {
    if (omp_set_num_threads != nullptr && omp_get_max_threads != nullptr) {
      before_ = omp_get_max_threads();
      if (before_ != threads) {
        omp_set_num_threads(threads);
      } else {
        before_ = 0;
      }
    }
  }
  ~BlasThreads() {
    if (before_ > 0) omp_set_num_threads(before_);
  }
  BlasThreads(const BlasThreads&) = delete;
  BlasThreads& operator=(const BlasThreads&) = delete;

 private:
  int before_ = 0;
};

}  // namespace sparsegrad::backend::host
