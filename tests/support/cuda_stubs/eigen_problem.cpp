// The functions of cuSOLVER that the library calls, by LAPACKE's dsyevd: other vectors of equal eigenvalues, and other
// signs, than the library's own method has.
#include <cusolverDn.h>
#include <lapacke.h>

#include <vector>

#include "device.hpp"

struct cusolverDnContext {
  cudaStream_t stream = nullptr;
};

namespace {

using sparsegrad::test::cuda_stubs::Device;

constexpr const char* handle_name = "a cuSOLVER handle";

}  // namespace

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  if (Device::get().forbidden_in_capture("cusolverDnCreate")) return CUSOLVER_STATUS_NOT_INITIALIZED;
  *handle =
      static_cast<cusolverDnHandle_t>(Device::get().hold(handle_name, std::make_shared<cusolverDnContext>()));
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  return Device::get().release(handle_name, handle) ? CUSOLVER_STATUS_SUCCESS
                                                    : CUSOLVER_STATUS_NOT_INITIALIZED;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnGetStream(cusolverDnHandle_t handle, cudaStream_t* stream) {
  *stream = handle->stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDsyevd_bufferSize(cusolverDnHandle_t, cusolverEigMode_t, cublasFillMode_t, int n,
                                             const double*, int, const double*, int* numbers) {
  *numbers = 2 * n * n + 6 * n + 1;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDsyevd(cusolverDnHandle_t handle, cusolverEigMode_t mode,
                                  cublasFillMode_t triangle, int n, double* a, int stride, double* w,
                                  double* work, int numbers, int* info) {
  Device& device = Device::get();
  const auto order = static_cast<std::size_t>(n);
  const auto all_there = [=, &device] {
    return device.covers("cusolverDnDsyevd, A", a,
                         ((order - 1) * static_cast<std::size_t>(stride) + order) * sizeof(double)) &&
           device.covers("cusolverDnDsyevd, W", w, order * sizeof(double)) &&
           device.covers("cusolverDnDsyevd, its work", work,
                         static_cast<std::size_t>(numbers) * sizeof(double)) &&
           device.covers("cusolverDnDsyevd, info", info, sizeof(int));
  };
  if (!all_there()) return CUSOLVER_STATUS_INVALID_VALUE;
  const cudaError_t status = device.status(device.submit(handle->stream, [=] {
    if (!all_there()) return;
    *info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, mode == CUSOLVER_EIG_MODE_VECTOR ? 'V' : 'N',
                           triangle == CUBLAS_FILL_MODE_UPPER ? 'U' : 'L', n, a, stride, w);
    for (int e = 0; e < numbers; ++e)
      work[e] = 1e300;
  }));
  return status == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
