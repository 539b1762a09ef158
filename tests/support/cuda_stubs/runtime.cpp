// The functions of CUDA's runtime that the library and its tests call.
#include <cstring>

#include "device.hpp"

namespace {

using sparsegrad::test::cuda_stubs::Device;
using sparsegrad::test::cuda_stubs::Graph;

Device& device() {
  return Device::get();
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return device().take_last_error();
}
const char* cudaGetErrorName(cudaError_t status) {
  return status == cudaSuccess ? "cudaSuccess" : "cudaError";
}
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : "an error of the stubs";
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  return device().status(device().allocate(p, bytes));
}
cudaError_t cudaFree(void* p) {
  return device().status(device().deallocate(p));
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  return device().status(device().allocate_on_host(p, bytes));
}
cudaError_t cudaFreeHost(void* p) {
  return device().status(device().deallocate_on_host(p));
}
cudaError_t cudaHostGetDevicePointer(void** of_device, void* p, unsigned) {
  *of_device = p;
  return device().status(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = Device::total_bytes;
  *free = Device::total_bytes - device().held_bytes();
  return device().status(cudaSuccess);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return device().status(device().copy(to, from, bytes, stream));
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = device().make_stream(true);
  return device().status(cudaSuccess);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = device().make_stream((flags & cudaStreamNonBlocking) == 0);
  return device().status(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return device().status(device().destroy_stream(stream));
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return device().status(device().synchronize(stream));
}
cudaError_t cudaDeviceSynchronize() {
  return device().status(device().synchronize());
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = device().is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return device().status(cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return device().status(device().begin_capture(stream));
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Graph* recorded = nullptr;
  const cudaError_t status = device().status(device().end_capture(stream, &recorded));
  *graph = reinterpret_cast<cudaGraph_t>(recorded);
  return status;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* replay, cudaGraph_t graph, unsigned long long) {
  auto copy = std::make_shared<Graph>(*reinterpret_cast<Graph*>(graph));
  *replay = static_cast<cudaGraphExec_t>(device().hold("a graph's replay", std::move(copy)));
  return device().status(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t replay, cudaStream_t stream) {
  for (const auto& work : reinterpret_cast<Graph*>(replay)->work) {
    const cudaError_t status = device().submit(stream, work);
    if (status != cudaSuccess) return device().status(status);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return device().release("a graph", graph) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t replay) {
  return device().release("a graph's replay", replay) ? cudaSuccess : cudaErrorInvalidValue;
}

}  // extern "C"
