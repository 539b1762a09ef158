// Device memory: where it comes from, and what is said when there is none.
#pragma once

#include <cstddef>
#include <string>

#include "check.cuh"

namespace sparsegrad::backend::cuda {

/// Where a context's scratch memory comes from: implement it over an engine's own pool. Memory is used on the
/// context's stream alone.
class MemoryResource {
 public:
  virtual ~MemoryResource() = default;
  /// At least `bytes` bytes, aligned to 256; throws where there are none.
  virtual void* allocate(std::size_t bytes, cudaStream_t stream) = 0;
  virtual void deallocate(void* p, cudaStream_t stream) noexcept = 0;
};

/// cudaMalloc. Throws CudaOutOfMemory with the bytes asked for and free, CudaError.
inline void* allocate_bytes(std::size_t bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaSuccess) return p;
  if (status != cudaErrorMemoryAllocation) fail(status, "cudaMalloc");
  cudaGetLastError();
  std::size_t free = 0;
  std::size_t total = 0;
  std::string found;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) {
    found = ", " + std::to_string(free) + " of " + std::to_string(total) + " bytes are free";
  }
  throw CudaOutOfMemory("not enough device memory: " + std::to_string(bytes) + " bytes asked for" + found,
                        static_cast<int>(status));
}

/// Failures are not told: this runs in destructors, and a failure here is an earlier kernel's, which the next call
/// tells.
inline void deallocate_bytes(void* p) noexcept {
  if (p != nullptr) cudaFree(p);
}

/// What a context's scratch blocks are made of.
struct ScratchMemory {
  MemoryResource* resource = nullptr;  ///< null: cudaMalloc
  cudaStream_t stream = nullptr;

  std::byte* allocate(std::size_t bytes) {
    return static_cast<std::byte*>(resource == nullptr ? allocate_bytes(bytes)
                                                       : resource->allocate(bytes, stream));
  }
  void deallocate(std::byte* p) noexcept {
    resource == nullptr ? deallocate_bytes(p) : resource->deallocate(p, stream);
  }
};

}  // namespace sparsegrad::backend::cuda
