// The symmetric eigenproblem by cuSOLVER.
#pragma once

#include <string>

#include "../thrust/block_kernel.cuh"
#include "context.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda {

/// From rising eigenvalues to falling ones: rows i and n - 1 - i of A change places, and so do w[i]
/// and w[n - 1 - i].
struct ReverseRows {
  portable::Array2<double> a;
  double* w;
  index_t n;
  SPARSEGRAD_HOST_DEVICE void operator()(index_t i, index_t j) const {
    const index_t other = n - 1 - i;
    const double x = a(i, j);
    a(i, j) = a(other, j);
    a(other, j) = x;
    if (j == 0) {
      const double y = w[i];
      w[i] = w[other];
      w[other] = y;
    }
  }
};

/// The contract's eigh: divide and conquer (syevd). Waits for the device; takes working memory of
/// the context's resource for the call. A row-major lower triangle is a column-major upper one, and
/// eigenvectors in columns are our rows.
template <class System>
void eigh(CudaContext& ctx, MatrixView<double> a, double* w) {
  const index_t n = a.rows;
  if (n == 0) return;
  const CudaContext::SolverCall call(ctx);
  const cusolverDnHandle_t solver = call.handle();
  const auto order = static_cast<int>(n);
  const auto stride = static_cast<int>(a.stride);
  int work_size = 0;
  check(cusolverDnDsyevd_bufferSize(solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, order, a.data,
                                    stride, w, &work_size),
        "cusolverDnDsyevd_bufferSize");
  const ContextBytes work(ctx.memory(), static_cast<std::size_t>(work_size) * sizeof(double) + 256);
  auto* info = reinterpret_cast<int*>(work.get());
  auto* numbers = reinterpret_cast<double*>(work.get() + 256);
  check(cusolverDnDsyevd(solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, order, a.data, stride, w,
                         numbers, work_size, info),
        "cusolverDnDsyevd");
  const int found = System::fetch(ctx, info);
  if (found != 0) {
    throw CudaError("cusolverDnDsyevd of order " + std::to_string(n) + " failed with info " +
                        std::to_string(found) + ", expected 0",
                    found);
  }
  portable::for_each_entry<System>(ctx, n / 2, n, ReverseRows{a, w, n});
  ctx.synchronize();
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
