// A program that uses OpenMP itself, before and after the library's headers.
#include <sparsegrad/backend/cpu_blas.hpp>

#include <omp.h>

int main() {
  omp_set_num_threads(3);
  int during = 0;
  {
    const sparsegrad::backend::host::BlasThreads serial(1);
    during = omp_get_max_threads();
  }
  return during == 1 && omp_get_max_threads() == 3 ? 0 : 1;
}
