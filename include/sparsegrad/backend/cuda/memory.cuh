// Device memory: where it comes from, and what is said when there is none.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "check.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda {

/// Where the memory of a context (scratch, the working memory of cuBLAS and of eigenproblems) and
/// of the objects made with it comes from: implement it over an engine's own pool. Must outlive
/// them.
class MemoryResource {
 public:
  virtual ~MemoryResource() = default;
  /// At least `bytes` bytes, aligned to 256, for work on `stream`, the context's; throws where
  /// there are none.
  virtual void* allocate(std::size_t bytes, cudaStream_t stream) = 0;
  /// A context's own memory: free after the work that `stream` has been given. An object's: nothing
  /// uses it any more, and `stream` is the default one, since the context's may be gone.
  virtual void deallocate(void* p, cudaStream_t stream) noexcept = 0;
};

/// cudaMalloc. Throws CudaOutOfMemory with the bytes asked for and free, CudaError.
inline void* allocate_bytes(std::size_t bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaSuccess) return p;
  if (status != cudaErrorMemoryAllocation) fail(status, "cudaMalloc");
  cudaGetLastError();
  fail(std::to_string(bytes) + " bytes asked for", ErrorKind::out_of_memory, static_cast<int>(status));
}

/// Failures are not told: this runs in destructors, and a failure here is an earlier kernel's,
/// which the next call tells.
inline void deallocate_bytes(void* p) noexcept {
  if (p != nullptr) cudaFree(p);
}

/// A context's own memory.
struct ContextMemory {
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

/// The memory of objects, which several contexts may use and which outlive them.
struct ObjectMemory {
  ContextMemory of_context;

  std::byte* allocate(std::size_t bytes) { return of_context.allocate(bytes); }
  /// Waits for the device where the memory goes back to a resource, as cudaFree does by itself.
  void deallocate(std::byte* p) noexcept {
    if (of_context.resource == nullptr) return deallocate_bytes(p);
    static_cast<void>(cudaDeviceSynchronize());
    of_context.resource->deallocate(p, cudaStream_t{});
  }
};

/// One piece of a context's own memory.
class ContextBytes {
 public:
  ContextBytes() = default;
  ContextBytes(ContextMemory memory, std::size_t bytes) : memory_(memory), data_(memory_.allocate(bytes)) {}
  ~ContextBytes() {
    if (data_ != nullptr) memory_.deallocate(data_);
  }
  ContextBytes(ContextBytes&& other) noexcept
      : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)) {}
  ContextBytes& operator=(ContextBytes&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    return *this;
  }
  ContextBytes(const ContextBytes&) = delete;
  ContextBytes& operator=(const ContextBytes&) = delete;

  std::byte* get() const { return data_; }

 private:
  ContextMemory memory_;
  std::byte* data_ = nullptr;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
