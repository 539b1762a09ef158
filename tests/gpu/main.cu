// Tests that need a GPU: without one they say so and end with the status that CTest counts as skipped.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include <cuda_runtime_api.h>

int main(int argc, char** argv) {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  const int result = doctest::Context(argc, argv).run();
  // Without what static objects do at the end: memory of `new` may be managed, and CUDA is at its end too.
  std::fflush(nullptr);
  std::_Exit(result);
}
