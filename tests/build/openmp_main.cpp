// A program that uses OpenMP itself, before and after the library's headers.
#include <sparsegrad/backend/cpu_blas.hpp>

#include <omp.h>

#include <filesystem>
#include <iterator>
#include <vector>

namespace {

// Threads of this process, where the system shows them.
long threads_now() {
  const std::filesystem::path tasks = "/proc/self/task";
  if (!std::filesystem::exists(tasks)) return 0;
  return std::distance(std::filesystem::directory_iterator(tasks), std::filesystem::directory_iterator());
}

// A team of OpenMP's in an eigenproblem of moderate order waits at every column: there must be none.
bool eigh_makes_no_team() {
  using Backend = sparsegrad::backend::CpuBlas;
  constexpr sparsegrad::index_t order = 600;
  Backend::Context ctx(2);
  std::vector<double> a(order * order, 0.0);
  std::vector<double> values(order);
  for (sparsegrad::index_t i = 0; i < order; ++i)
    for (sparsegrad::index_t j = 0; j <= i; ++j)
      a[static_cast<std::size_t>(i * order + j)] = static_cast<double>((i * 37 + j * 11) % 101);
  const long before = threads_now();
  Backend::eigh(ctx, sparsegrad::MatrixView<double>(a.data(), order, order), values.data());
  return threads_now() == before;
}

}  // namespace

int main() {
  if (!eigh_makes_no_team()) return 2;
  omp_set_num_threads(3);
  int during = 0;
  {
    const sparsegrad::backend::host::BlasThreads serial(1);
    during = omp_get_max_threads();
  }
  return during == 1 && omp_get_max_threads() == 3 ? 0 : 1;
}
