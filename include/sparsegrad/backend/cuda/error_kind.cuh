// What a failed call of CUDA's libraries means to its caller: status numbers alone, no call of any
// library, so that it is tested where there is no GPU.
#pragma once

#include <string>

#include <cublas_api.h>
#include <cusolver_common.h>
#include <driver_types.h>

#include "../../core/config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda {

enum class ErrorKind {
  other,
  out_of_memory,       ///< nothing has changed; less may fit
  no_device,           ///< none is there, or none is visible
  old_driver,          ///< the driver knows less than this program's CUDA
  other_architecture,  ///< compiled for other GPUs
  sticky,              ///< an earlier kernel failed: no call succeeds any more in this process
};

inline ErrorKind kind_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return ErrorKind::out_of_memory;
    case cudaErrorNoDevice:
      return ErrorKind::no_device;
    case cudaErrorInsufficientDriver:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return ErrorKind::old_driver;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return ErrorKind::other_architecture;
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
      return ErrorKind::sticky;
    default:
      return ErrorKind::other;
  }
}

/// A library's status says less than the runtime's last error, where there is one: `pending`,
/// cudaSuccess for none.
inline ErrorKind kind_of(cublasStatus_t status, cudaError_t pending) {
  if (status == CUBLAS_STATUS_ALLOC_FAILED) return ErrorKind::out_of_memory;
  return kind_of(pending);
}
inline ErrorKind kind_of(cusolverStatus_t status, cudaError_t pending) {
  if (status == CUSOLVER_STATUS_ALLOC_FAILED) return ErrorKind::out_of_memory;
  return kind_of(pending);
}

/// What is to be added to the error's own text: what was expected, and what to do. `driver` and
/// `runtime` are CUDA's version numbers, 1000 major + 10 minor; driver 0: there is none.
inline std::string explanation(ErrorKind kind, int driver, int runtime) {
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  switch (kind) {
    case ErrorKind::no_device:
      return "; expected a CUDA device: none is there, or CUDA_VISIBLE_DEVICES hides it";
    case ErrorKind::old_driver:
      return (driver == 0 ? std::string("; there is no NVIDIA driver")
                          : "; the driver is for CUDA " + version(driver)) +
             ", expected one for CUDA " + version(runtime) + " or compatible with it";
    case ErrorKind::other_architecture:
      return "; the program was compiled for other GPUs: add this one's architecture "
             "(CMAKE_CUDA_ARCHITECTURES)";
    case ErrorKind::sticky:
      return "; an earlier kernel failed, and this process cannot use the device any more (compute-sanitizer "
             "names "
             "the kernel)";
    case ErrorKind::out_of_memory:
    case ErrorKind::other:
      break;
  }
  return "";
}

/// "12 of 80 bytes are free", for errors of kind out_of_memory.
inline std::string memory_text(std::size_t free, std::size_t total) {
  return std::to_string(free) + " of " + std::to_string(total) + " bytes are free";
}

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
