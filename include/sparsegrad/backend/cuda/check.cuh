// From the status of a CUDA call to an exception that says what was asked and what was found.
#pragma once

#include <string>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include "../../core/error.hpp"
#include "error_kind.cuh"

namespace sparsegrad::SPARSEGRAD_ABI {

/// A call of the CUDA runtime, cuBLAS or cuSOLVER that failed. `status` is that library's own
/// number. Errors that an earlier kernel left behind ("sticky": an illegal address, a failed
/// assertion) end the process's use of the device, whatever is called; the text says so.
class CudaError : public Error {
 public:
  CudaError(const std::string& text, int status_) : Error(text), status(status_) {}
  int status;
};

/// The device has not enough memory. Nothing has changed: free something, or ask for less, and go
/// on.
class CudaOutOfMemory : public CudaError {
 public:
  using CudaError::CudaError;
};

namespace backend::cuda {

inline std::string text_of(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + " (" + cudaGetErrorString(status) + ")";
}

[[noreturn]] inline void fail(const std::string& text, ErrorKind kind, int status) {
  if (kind == ErrorKind::out_of_memory) {
    std::size_t free = 0;
    std::size_t total = 0;
    const bool known = cudaMemGetInfo(&free, &total) == cudaSuccess;
    throw CudaOutOfMemory(
        "not enough device memory: " + text + (known ? ", " + memory_text(free, total) : std::string()),
        status);
  }
  int driver = 0;
  if (kind == ErrorKind::old_driver) cudaDriverGetVersion(&driver);
  throw CudaError(text + explanation(kind, driver, CUDART_VERSION), status);
}

[[noreturn]] inline void fail(cudaError_t status, const char* what) {
  cudaGetLastError();  // an error that is not sticky is forgotten: the next call is not to be blamed for it
  fail(std::string(what) + ": " + text_of(status), kind_of(status), static_cast<int>(status));
}

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(status, what);
}

/// The runtime's error beside a library's: why the library failed, if the runtime knows.
[[noreturn]] inline void fail_beside(const std::string& text, ErrorKind kind, cudaError_t pending,
                                     int status) {
  fail(pending == cudaSuccess ? text : text + ", " + text_of(pending), kind, status);
}

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const cudaError_t pending = cudaGetLastError();
  fail_beside(
      std::string(what) + ": " + cublasGetStatusName(status) + " (" + cublasGetStatusString(status) + ")",
      kind_of(status, pending), pending, static_cast<int>(status));
}

inline void check(cusolverStatus_t status, const char* what) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  const cudaError_t pending = cudaGetLastError();
  fail_beside(std::string(what) + ": cuSOLVER status " + std::to_string(static_cast<int>(status)),
              kind_of(status, pending), pending, static_cast<int>(status));
}

}  // namespace backend::cuda
}  // namespace sparsegrad::SPARSEGRAD_ABI
