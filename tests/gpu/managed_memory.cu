// In a program that holds this, all memory of `new` is managed: the host and the device read and write it, so that a
// test made for host pointers runs on the device. To be run with CUDA_LAUNCH_BLOCKING=1: kernels have then ended when
// their launch returns, and the primitives that the tests call without waiting are made of kernels alone.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <cuda_runtime_api.h>

namespace {

/// Before each piece: where it came from, so that it goes back there whatever has happened meanwhile.
struct alignas(256) Origin {
  bool managed;
};

/// While a thread is inside the CUDA runtime, which may itself call `new`.
thread_local bool inside = false;

bool has_device() {
  enum { unknown, none, some };
  static std::atomic<int> found{unknown};  // no guard that a nested call would find locked
  if (found.load() == unknown) {
    int devices = 0;
    const bool there = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
    found.store(there ? some : none);
  }
  return found.load() == some;
}

void* allocate(std::size_t bytes) {
  void* p = nullptr;
  bool managed = false;
  if (!inside) {
    inside = true;
    managed = has_device() && cudaMallocManaged(&p, sizeof(Origin) + bytes) == cudaSuccess;
    inside = false;
  }
  if (!managed) p = std::aligned_alloc(alignof(Origin), (sizeof(Origin) + bytes + 255) / 256 * 256);
  if (p == nullptr) throw std::bad_alloc();
  return new (p) Origin{managed} + 1;
}

void give_back(void* p) noexcept {
  if (p == nullptr) return;
  Origin* origin = static_cast<Origin*>(p) - 1;
  if (!origin->managed) return std::free(origin);
  const bool outer = inside;
  inside = true;
  cudaFree(origin);
  inside = outer;
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes);
}
void* operator new[](std::size_t bytes) {
  return allocate(bytes);
}
void operator delete(void* p) noexcept {
  give_back(p);
}
void operator delete[](void* p) noexcept {
  give_back(p);
}
void operator delete(void* p, std::size_t) noexcept {
  give_back(p);
}
void operator delete[](void* p, std::size_t) noexcept {
  give_back(p);
}
