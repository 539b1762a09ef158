// Contexts: what is borrowed, steps without allocation or waiting, graphs, errors.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <sparsegrad/sparsegrad_cuda.cuh>

#include "support/device_memory.hpp"

using namespace sparsegrad;
using sparsegrad::test::Host;
using sparsegrad::test::normal;
using sparsegrad::test::to_device;
using sparsegrad::test::to_host;

namespace {

using B = backend::Cuda;

/// A resource that counts.
class Counting : public backend::cuda::MemoryResource {
 public:
  void* allocate(std::size_t bytes, cudaStream_t) override {
    ++calls;
    return backend::cuda::allocate_bytes(bytes);
  }
  void deallocate(void* p, cudaStream_t) noexcept override { backend::cuda::deallocate_bytes(p); }
  int calls = 0;
};

/// A layer whose whole step can stand in a graph: dense optimizer state, NaN and Inf passed on.
struct Model {
  static constexpr index_t out = 96;
  static constexpr index_t in = 64;
  static constexpr index_t tokens = 40;

  explicit Model(const backend::cuda::ContextOptions& options = {}) : ctx(options) {
    std::mt19937_64 random(7);
    weight = to_device<B>(ctx, normal<float>(random, out * in));
    x = to_device<B>(ctx, normal<float>(random, tokens * in));
    dy = to_device<B>(ctx, normal<float>(random, tokens * out));
    y.resize(ctx, tokens * out);
    dx.resize(ctx, tokens * in);
    layer = std::make_unique<SparseGradLinear<float, B>>(ctx, weight.matrix(out, in), nullptr);
    GroupOptions group_options;
    group_options.entries = 200;
    group_options.capacity_factor = 0;
    group_options.non_finite = NonFinite::propagate;
    group = std::make_unique<SparseGradGroup<float, B>>(group_options);
    group->add(ctx, *layer, "up");
    group->collect(ctx, {});
    pass();
    group->end_collecting_step(ctx);
    group->refresh(ctx);
    keep.resize(ctx, tokens * layer->kept_cols());
    group->reserve(ctx, tokens);
    step();
    ctx.synchronize();
  }
  void pass() {
    const auto saved = layer->forward(ctx, x.matrix(tokens, in), y.matrix(tokens, out),
                                      keep.matrix(tokens, layer->kept_cols()));
    layer->backward(ctx, dy.matrix(tokens, out), saved, dx.matrix(tokens, in), nullptr);
  }
  void step() {
    pass();
    group->step(ctx, {.learning_rate = 1e-2});
  }
  Host<float> weights() { return to_host<B>(ctx, weight.data(), weight.size()); }

  B::Context ctx;
  Buffer<float, B> weight, x, dy, y, dx, keep;
  std::unique_ptr<SparseGradLinear<float, B>> layer;
  std::unique_ptr<SparseGradGroup<float, B>> group;
};

}  // namespace

TEST_CASE("after the first step nothing is allocated") {
  Counting memory;
  Model model({.memory = &memory});
  std::size_t before = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  cudaMemGetInfo(&before, &total);
  const int calls = memory.calls;
  for (int s = 0; s < 5; ++s)
    model.step();
  model.ctx.synchronize();
  cudaMemGetInfo(&after, &total);
  CHECK(memory.calls == calls);
  CHECK(after == before);
}

TEST_CASE("a captured step replays as a step, each replay one step further") {
  Model plain;
  Model captured;
  REQUIRE(plain.weights() == captured.weights());
  captured.group->count_on_device(captured.ctx);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamBeginCapture(captured.ctx.stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  captured.step();
  REQUIRE(cudaStreamEndCapture(captured.ctx.stream(), &graph) == cudaSuccess);
  cudaGraphExec_t replay = nullptr;
  REQUIRE(cudaGraphInstantiate(&replay, graph, 0) == cudaSuccess);
  for (int s = 0; s < 4; ++s) {
    plain.step();
    REQUIRE(cudaGraphLaunch(replay, captured.ctx.stream()) == cudaSuccess);
    CHECK(captured.weights() == plain.weights());
  }
  captured.group->count_on_host(captured.ctx);
  CHECK(captured.group->optimizer(0).steps() == plain.group->optimizer(0).steps());
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

TEST_CASE("contexts on streams of their own do the same as one") {
  Model alone;
  Model first;
  Model second;
  for (int s = 0; s < 3; ++s) {
    first.step();
    second.step();
    alone.step();
  }
  const Host<float> expected = alone.weights();
  CHECK(first.weights() == expected);
  CHECK(second.weights() == expected);
}

TEST_CASE("a borrowed stream and handle serve") {
  cudaStream_t stream = nullptr;
  cublasHandle_t blas = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
  // The handle's owner finds it as it was: on its own stream, in its own modes.
  REQUIRE(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_DEVICE) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasSetMathMode(blas, CUBLAS_PEDANTIC_MATH) == CUBLAS_STATUS_SUCCESS);
  {
    Model own;
    Model borrowed({.stream = stream, .blas = blas});
    own.step();
    borrowed.step();
    const Host<float> a = own.weights();
    const Host<float> b = borrowed.weights();
    for (std::size_t e = 0; e < a.size(); ++e)
      CHECK(a[e] == doctest::Approx(b[e]).epsilon(1e-5));
  }
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cudaStream_t handle_stream = stream;
  cublasGetPointerMode(blas, &pointers);
  cublasGetMathMode(blas, &math);
  cublasGetStream(blas, &handle_stream);
  CHECK(pointers == CUBLAS_POINTER_MODE_DEVICE);
  CHECK(math == CUBLAS_PEDANTIC_MATH);
  CHECK(handle_stream == nullptr);
  cublasDestroy(blas);
  cudaStreamDestroy(stream);
}

TEST_CASE("TF32 changes products of layers, never Gram sums") {
  std::mt19937_64 random(1);
  const index_t n = 256;
  const Host<float> values = normal<float>(random, n * n);
  Host<double> grams[2];
  Host<float> products[2];
  for (const bool tf32 : {false, true}) {
    B::Context ctx;
    ctx.allow_tf32(tf32);
    const Buffer<float, B> a = to_device<B>(ctx, values);
    Buffer<float, B> c(ctx, n * n);
    Buffer<double, B> g(ctx, n * n);
    B::gemm<float>(ctx, Op::none, Op::none, 1, a.matrix(n, n), a.matrix(n, n), 0, c.matrix(n, n));
    B::gram<float>(ctx, Op::none, a.matrix(n, n), 1.0, g.matrix(n, n));
    products[tf32 ? 1 : 0] = to_host<B>(ctx, c.data(), c.size());
    grams[tf32 ? 1 : 0] = to_host<B>(ctx, g.data(), g.size());
  }
  CHECK(grams[0] == grams[1]);
  CHECK(products[0] != products[1]);
}

TEST_CASE("out of memory says how much was asked for, and all goes on") {
  Model model;
  const Host<float> before = model.weights();
  std::string text;
  try {
    Buffer<float, B> huge(model.ctx, index_t{1} << 46);
  } catch (const CudaOutOfMemory& error) {
    text = error.what();
  }
  CHECK(text.find("281474976710656 bytes asked for") != std::string::npos);
  CHECK(text.find("are free") != std::string::npos);
  CHECK(model.weights() == before);
  model.step();
  CHECK(model.weights() != before);
}
