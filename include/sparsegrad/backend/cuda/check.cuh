// From the status of a CUDA call to an exception that says what was asked and what was found.
#pragma once

#include <string>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include "../../core/error.hpp"

namespace sparsegrad {

/// A call of the CUDA runtime, cuBLAS or cuSOLVER that failed. `status` is that library's own number. Errors that an
/// earlier kernel left behind ("sticky": an illegal address, a failed assertion) end the process's use of the
/// device, whatever is called; the text says so.
class CudaError : public Error {
 public:
  CudaError(const std::string& text, int status_) : Error(text), status(status_) {}
  int status;
};

/// The device has not enough memory. Nothing has changed: free something, or ask for less, and go on.
class CudaOutOfMemory : public CudaError {
 public:
  using CudaError::CudaError;
};

namespace backend::cuda {

inline std::string text_of(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + " (" + cudaGetErrorString(status) + ")";
}

/// True for errors after which no call on this device succeeds any more in this process.
inline bool sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

[[noreturn]] inline void fail(cudaError_t status, const char* what) {
  cudaGetLastError();  // an error that is not sticky is forgotten: the next call is not to be blamed for it
  std::string text = std::string(what) + ": " + text_of(status);
  if (status == cudaErrorNoDevice) {
    text += "; expected a CUDA device: none is there, or CUDA_VISIBLE_DEVICES hides it";
  } else if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    text += (driver == 0 ? std::string("; there is no NVIDIA driver")
                         : "; the driver is for CUDA " + version(driver)) +
            ", expected one for CUDA " + version(CUDART_VERSION) + " or compatible with it";
  } else if (status == cudaErrorNoKernelImageForDevice) {
    text +=
        "; the program was compiled for other GPUs: add this one's architecture (CMAKE_CUDA_ARCHITECTURES)";
  } else if (sticky(status)) {
    text +=
        "; an earlier kernel failed, and this process cannot use the device any more "
        "(compute-sanitizer names the kernel)";
  }
  throw CudaError(text, static_cast<int>(status));
}

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(status, what);
}

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(
      std::string(what) + ": " + cublasGetStatusName(status) + " (" + cublasGetStatusString(status) + ")",
      static_cast<int>(status));
}

inline void check(cusolverStatus_t status, const char* what) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  throw CudaError(std::string(what) + ": cuSOLVER status " + std::to_string(static_cast<int>(status)),
                  static_cast<int>(status));
}

}  // namespace backend::cuda
}  // namespace sparsegrad
