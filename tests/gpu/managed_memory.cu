// In a program that holds this, all memory of `new` is managed: the host and the device read and write it, so that a
// test made for host pointers runs on the device. To be run with CUDA_LAUNCH_BLOCKING=1.
#include <cstdlib>
#include <new>

#include <cuda_runtime_api.h>

namespace {

bool has_device() {
  static const bool found = [] {
    int devices = 0;
    return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
  }();
  return found;
}

void* managed(std::size_t bytes) {
  if (bytes == 0) bytes = 1;
  void* p = nullptr;
  if (!has_device()) {
    p = std::malloc(bytes);
  } else if (cudaMallocManaged(&p, bytes) != cudaSuccess) {
    p = nullptr;
  }
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void give_back(void* p) noexcept {
  if (p == nullptr) return;
  has_device() ? static_cast<void>(cudaFree(p)) : std::free(p);
}

}  // namespace

void* operator new(std::size_t bytes) {
  return managed(bytes);
}
void* operator new[](std::size_t bytes) {
  return managed(bytes);
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
