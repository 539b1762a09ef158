// The symmetric eigenproblem by cuSOLVER.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

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

using OwnedParameters =
    std::unique_ptr<std::remove_pointer_t<cusolverDnParams_t>, Destroyer<cusolverDnDestroyParams>>;

/// The contract's eigh: divide and conquer (cusolverDnXsyevd, of any order). Waits for the device;
/// takes working memory of the context's resource, and some of the host's, for the call. A row-major
/// lower triangle is a column-major upper one, and eigenvectors in columns are our rows.
template <class System>
void eigh(CudaContext& ctx, MatrixView<double> a, double* w) {
  const index_t n = a.rows;
  if (n == 0) return;
  const CudaContext::SolverCall call(ctx);
  const cusolverDnHandle_t solver = call.handle();
  cusolverDnParams_t made = nullptr;
  check(cusolverDnCreateParams(&made), "cusolverDnCreateParams");
  const OwnedParameters parameters(made);
  std::size_t on_device = 0;
  std::size_t on_host = 0;
  check(cusolverDnXsyevd_bufferSize(solver, made, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n,
                                    CUDA_R_64F, a.data, a.stride, CUDA_R_64F, w, CUDA_R_64F, &on_device,
                                    &on_host),
        "cusolverDnXsyevd_bufferSize");
  const ContextBytes work(ctx.memory(), on_device + 256);
  std::vector<std::byte> host_work(on_host);
  auto* info = reinterpret_cast<int*>(work.get());
  check(cusolverDnXsyevd(solver, made, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F,
                         a.data, a.stride, CUDA_R_64F, w, CUDA_R_64F, work.get() + 256, on_device,
                         host_work.data(), on_host, info),
        "cusolverDnXsyevd");
  const int found = System::fetch(ctx, info);
  if (found != 0) {
    throw CudaError("cusolverDnXsyevd of order " + std::to_string(n) + " failed with info " +
                        std::to_string(found) + ", expected 0",
                    found);
  }
  portable::for_each_entry<System>(ctx, n / 2, n, ReverseRows{a, w, n});
  ctx.synchronize();
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
