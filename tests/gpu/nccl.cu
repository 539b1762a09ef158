// NcclReducer with one rank: what NCCL and the streams do to a gradient.
#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include <sparsegrad/extras/nccl_reduce.cuh>
#include <sparsegrad/sparsegrad_cuda.cuh>

using namespace sparsegrad;
using Device = backend::Cuda;

TEST_CASE("nccl: one rank's sums are its gradients, in each wire type") {
  ncclComm_t comm = nullptr;
  const int device = 0;
  REQUIRE(ncclCommInitAll(&comm, 1, &device) == ncclSuccess);
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  for (const WireType wire : {WireType::same, WireType::bfloat16}) {
    Device::Context ctx;
    Buffer<float, Device> g(ctx, 3000);
    std::vector<float> host(3000), found(3000);
    for (std::size_t e = 0; e < host.size(); ++e)
      host[e] = static_cast<float>(e % 251) - 100;  // exact in bfloat16
    Device::upload<float>(ctx, host.data(), g.data(), 3000);
    NcclReducer<float, Device> reducer(comm, stream, {.bucket_bytes = 4096, .wire = wire, .check = true});
    for (int step = 0; step < 3; ++step) {
      for (index_t i = 0; i < 3; ++i)
        reducer.start(ctx, i, MatrixView<float>(g.data() + 1000 * i, 1, 1000));
      for (index_t i = 0; i < 3; ++i)
        reducer.wait(ctx, i, MatrixView<float>(g.data() + 1000 * i, 1, 1000));
    }
    SparseGradient<float, Device> s(ctx, 30, 100, 5);
    const SparseGradient<float, Device>* selected[] = {&s};
    reducer.agree(ctx, selected);
    Device::download<float>(ctx, g.data(), found.data(), 3000);
    CHECK(found == host);
  }
  cudaStreamDestroy(stream);
  ncclCommDestroy(comm);
}
