// The functions of cuSOLVER that the library calls, by LAPACKE's dsyevd: other vectors of equal eigenvalues, and other
// signs, than the library's own method has.
#include <cusolverDn.h>
#include <lapacke.h>

#include <cstdint>
#include <cstring>

#include "device.hpp"

struct cusolverDnContext {
  cudaStream_t stream = nullptr;
};
struct cusolverDnParams {};

namespace {

using sparsegrad::test::cuda_stubs::Device;

constexpr const char* handle_name = "a cuSOLVER handle";
constexpr const char* parameters_name = "cuSOLVER's parameters";

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
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* parameters) {
  *parameters = static_cast<cusolverDnParams_t>(
      Device::get().hold(parameters_name, std::make_shared<cusolverDnParams>()));
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t parameters) {
  return Device::get().release(parameters_name, parameters) ? CUSOLVER_STATUS_SUCCESS
                                                            : CUSOLVER_STATUS_INVALID_VALUE;
}
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t,
                                             cublasFillMode_t, int64_t n, cudaDataType, const void*, int64_t,
                                             cudaDataType, const void*, cudaDataType, size_t* on_device,
                                             size_t* on_host) {
  const auto order = static_cast<size_t>(n);
  *on_device = (2 * order * order + 6 * order + 1) * sizeof(double);
  *on_host = order;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t, cusolverEigMode_t mode,
                                  cublasFillMode_t triangle, int64_t n, cudaDataType a_type, void* a,
                                  int64_t stride, cudaDataType w_type, void* w, cudaDataType type, void* work,
                                  size_t on_device, void* host_work, size_t on_host, int* info) {
  Device& device = Device::get();
  if (a_type != CUDA_R_64F || w_type != CUDA_R_64F || type != CUDA_R_64F)
    return CUSOLVER_STATUS_INVALID_VALUE;
  const auto order = static_cast<std::size_t>(n);
  const auto all_there = [=, &device] {
    return device.covers("cusolverDnXsyevd, A", a,
                         ((order - 1) * static_cast<std::size_t>(stride) + order) * sizeof(double)) &&
           device.covers("cusolverDnXsyevd, W", w, order * sizeof(double)) &&
           device.covers("cusolverDnXsyevd, its work", work, on_device) &&
           device.covers("cusolverDnXsyevd, info", info, sizeof(int));
  };
  if (!all_there()) return CUSOLVER_STATUS_INVALID_VALUE;
  const cudaError_t status = device.status(device.submit(handle->stream, [=] {
    if (!all_there()) return;
    *info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, mode == CUSOLVER_EIG_MODE_VECTOR ? 'V' : 'N',
                           triangle == CUBLAS_FILL_MODE_UPPER ? 'U' : 'L', static_cast<int>(n),
                           static_cast<double*>(a), static_cast<int>(stride), static_cast<double*>(w));
    std::memset(work, 0x7f, on_device);
    std::memset(host_work, 0x7f, on_host);  // the caller's until this is done
  }));
  return status == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
