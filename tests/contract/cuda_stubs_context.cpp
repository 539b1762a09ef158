// The CUDA backend without a GPU: its contexts, products, eigenproblems, captures and errors on functions that stand for
// CUDA's, and what these find wrong.
#include "support/cuda_stubs/backend.hpp"

using DeviceBackend = sparsegrad::test::cuda_stubs::Cuda;

#include "support/device_context.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace {

using test::cuda_stubs::Device;

/// The only violation of `run`, or all of them.
template <class F>
std::string violation_of(const F& run) {
  Device::get().take_violations();
  run();
  std::string all;
  for (const std::string& text : Device::get().take_violations())
    all += (all.empty() ? "" : "; ") + text;
  return all;
}

/// What `run` does in a capture of the context's stream.
template <class F>
std::string violation_in_capture(B::Context& ctx, const F& run) {
  return violation_of([&] {
    REQUIRE(cudaStreamBeginCapture(ctx.stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    try {
      run();
    } catch (const CudaError&) {  // CUDA says so itself
    }
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(ctx.stream(), &graph) == cudaSuccess) cudaGraphDestroy(graph);
  });
}

/// Whether `run` ends the process by a fault, as memory does that is closed.
template <class F>
bool faults(const F& run) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    run();
    std::_Exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

/// What `run` has cost.
template <class F>
Device::Counts counts_of(const F& run) {
  const Device::Counts before = Device::get().counts();
  run();
  const Device::Counts after = Device::get().counts();
  return {after.waits - before.waits, after.work - before.work};
}

/// 24 small matrices in the order and the proportions of BERT's, both sides full; of `plan` one is left to the end.
struct Stack {
  explicit Stack(Plan plan) {
    GroupOptions options;
    options.entries = 20;
    group = std::make_unique<SparseGradGroup<float, B>>(options);
    std::mt19937_64 random(3);
    for (int i = 0; i < 24; ++i) {
      const index_t out = i % 2 == 0 ? 16 : 8;
      const index_t in = 24 - out;
      weights.push_back(to_device<B>(ctx, normal<float>(random, out * in)));
      gradients.push_back(to_device<B>(ctx, normal<float>(random, out * in)));
      layers.push_back(std::make_unique<SparseGradLinear<float, B>>(ctx, weights.back().matrix(out, in),
                                                                    nullptr, LinearOptions{.plan = plan}));
      group->add(ctx, *layers.back(), i % 2 == 0 ? "up" : "down");
    }
    BasisRecipe recipe;
    recipe.sides = [](const std::string&) { return SideRecipes{SideRecipe::random(), SideRecipe::random()}; };
    group->collect(ctx, recipe);
    group->refresh(ctx);
    group->reserve(ctx);
    step(true);
    group->check(ctx);
  }
  void pass() {
    for (std::size_t i = 0; i < layers.size(); ++i)
      layers[i]->add_gradient(ctx, gradients[i].matrix(layers[i]->out_extent(), layers[i]->in_extent()));
  }
  void step(bool clip) {
    pass();
    take(clip);
  }
  void take(bool clip) {
    const double norm = clip ? std::sqrt(group->squared_norm(ctx)) : 1;
    group->step(ctx, {.learning_rate = 1e-2, .grad_scale = 1 / norm});
  }

  B::Context ctx;
  std::vector<Buffer<float, B>> weights, gradients;
  std::vector<std::unique_ptr<SparseGradLinear<float, B>>> layers;
  std::unique_ptr<SparseGradGroup<float, B>> group;
};

void multiply(B::Context& ctx, Buffer<float, B>& a, index_t n) {
  B::gemm<float>(ctx, Op::none, Op::none, 1, a.matrix(n, n), a.matrix(n, n), 0, a.matrix(n, n));
}

}  // namespace

TEST_CASE("what a capture forbids") {
  B::Context ctx;
  Buffer<float, B> a(ctx, 64);
  Buffer<double, B> square(ctx, 64);
  Buffer<double, B> values(ctx, 8);
  std::vector<float> host(64);
  ctx.scratch().reserve(1 << 16);
  CHECK(violation_in_capture(ctx, [&] { Buffer<float, B>(ctx, 5); }) == "cudaMalloc in a capture");
  std::optional<Buffer<float, B>> other(std::in_place, ctx, 5);
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 5) == cudaSuccess);
  CHECK(violation_in_capture(ctx, [&] { cudaFree(p); }) == "cudaFree in a capture");
  REQUIRE(cudaFree(p) == cudaSuccess);
  CHECK(violation_in_capture(ctx, [&] { ctx.synchronize(); }) == "cudaStreamSynchronize in a capture");
  CHECK(violation_in_capture(ctx, [&] { cudaDeviceSynchronize(); }) == "cudaDeviceSynchronize in a capture");
  CHECK(violation_in_capture(ctx, [&] { B::download<float>(ctx, a.data(), host.data(), 64); }) ==
        "a copy from or to the host's pageable memory in a capture: a replay would do it again");
  CHECK(violation_in_capture(ctx, [&] { B::squared_norm<float>(ctx, a.matrix(8, 8)); }) ==
        "a copy from or to the host's pageable memory in a capture: a replay would do it again");
  CHECK(violation_in_capture(ctx, [&] { B::eigh(ctx, square.matrix(8, 8), values.data()); }) ==
        "cusolverDnCreate in a capture");
  CHECK(violation_in_capture(ctx, [&] { B::Context another; }).find("cudaHostAlloc in a capture") !=
        std::string::npos);
  CHECK(violation_in_capture(ctx, [&] { multiply(ctx, a, 8); }).empty());

  B::Context without({.blas_workspace = 0});
  Buffer<float, B> b(without, 64);
  CHECK(violation_of([&] { multiply(without, b, 8); }).empty());
  CHECK(violation_in_capture(without, [&] { multiply(without, b, 8); }) ==
        "cublas gemm in a capture without a workspace of the caller's: cuBLAS would allocate one");
  B::Context on_default({.stream = cudaStream_t{}});
  CHECK(violation_of([&] {
          CHECK(cudaStreamBeginCapture(on_default.stream(), cudaStreamCaptureModeThreadLocal) != cudaSuccess);
        }) == "a capture of the default stream");
}

TEST_CASE("waits and launches of a step: none and few, one wait with clipping") {
  constexpr auto first = SideOrder::project_first;
  constexpr auto last = SideOrder::multiply_first;
  for (const Plan plan : {Plan{last, last}, Plan{last, first}}) {
    Stack stack(plan);
    stack.pass();
    const Device::Counts plain = counts_of([&] { stack.take(false); });
    stack.pass();
    const Device::Counts clipped = counts_of([&] { stack.take(true); });
    const Device::Counts check = counts_of([&] { stack.group->check(stack.ctx); });
    CHECK(plain.waits == 0);
    CHECK(clipped.waits == 1);
    CHECK(check.waits == 1);
    CHECK(plain.work == (plan.in == last ? 27 : 23));
    CHECK(clipped.work == plain.work + 3);
  }
}

TEST_CASE("what is staged arrives without a wait, in a capture it is refused") {
  B::Context ctx;
  constexpr index_t n = 50000;  // the sixth does not fit beside the others
  std::mt19937_64 random(6);
  std::vector<Host<float>> sent;
  std::vector<Buffer<float, B>> arrived;
  for (int i = 0; i < 6; ++i) {
    sent.push_back(normal<float>(random, n));
    arrived.emplace_back(ctx, n);
  }
  const auto stage = [&](std::size_t i) {
    Host<float> gone = sent[i];
    B::stage<float>(ctx, gone.data(), arrived[i].data(), n);
    std::fill(gone.begin(), gone.end(), -1.0F);
  };
  CHECK(counts_of([&] {
          for (std::size_t i = 0; i < 5; ++i)
            stage(i);
        }).waits == 0);
  CHECK(counts_of([&] { stage(5); }).waits == 1);
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(to_host<B>(ctx, arrived[i].data(), n) == sent[i]);
  const Host<float> large = normal<float>(random, 300000);
  Buffer<float, B> target(ctx, 300000);
  CHECK(counts_of([&] { B::stage<float>(ctx, large.data(), target.data(), 300000); }).waits == 1);
  CHECK(to_host<B>(ctx, target.data(), 300000) == large);
  CHECK_FALSE(violation_in_capture(ctx, [&] { stage(0); }).empty());
}

TEST_CASE("memory that is not there") {
  B::Context ctx;
  float* p = nullptr;
  REQUIRE(cudaMalloc(reinterpret_cast<void**>(&p), 64 * sizeof(float)) == cudaSuccess);
  std::vector<float> host(65);
  const MatrixView<float> m(p, 8, 8);
  const auto product = [&](MatrixView<float> c) {
    try {
      B::gemm<float>(ctx, Op::none, Op::none, 1, m, m, 0, c);
      ctx.synchronize();
    } catch (const CudaError&) {
    }
  };
  CHECK(violation_of([&] { product(m); }).empty());
  CHECK(violation_of([&] { product(MatrixView<float>(p, 8, 8, 9)); }) ==
        "cublas gemm, result: 284 bytes, of which 256 are there");
  CHECK(violation_of([&] { CHECK_THROWS_AS(B::upload<float>(ctx, host.data(), p, 65), CudaError); }) ==
        "cudaMemcpyAsync: 260 bytes, of which 256 are there");
  CHECK(violation_of([&] {
          CHECK(cudaMemcpyAsync(p, host.data(), 256, cudaMemcpyDefault, ctx.stream()) == cudaSuccess);
          cudaGraph_t graph = nullptr;
          cudaGraphExec_t replay = nullptr;
          cudaStreamBeginCapture(ctx.stream(), cudaStreamCaptureModeThreadLocal);
          B::gemm<float>(ctx, Op::none, Op::none, 1, m, m, 0, m);
          cudaStreamEndCapture(ctx.stream(), &graph);
          cudaGraphInstantiate(&replay, graph, 0);
          cudaFree(p);
          cudaGraphLaunch(replay, ctx.stream());
          cudaStreamSynchronize(ctx.stream());
          cudaGraphExecDestroy(replay);
          cudaGraphDestroy(graph);
        }) == "cublas gemm when it is done, left operand: the memory was freed");
  CHECK(violation_of([&] { product(m); }) == "cublas gemm, left operand: the memory was freed");
  CHECK(violation_of([&] { cudaFree(p); }) == "cudaFree of what is no memory, or was freed before");
  const Buffer<float, B> good(ctx, 64);
  const MatrixView<float> of_host(host.data(), 8, 8);
  CHECK(violation_of([&] {
          CHECK_THROWS_AS(
              B::gemm<float>(ctx, Op::none, Op::none, 1, good.matrix(8, 8), good.matrix(8, 8), 0, of_host),
              CudaError);
        }) == "cublas gemm, result: no memory of the device's");
}

TEST_CASE("kernels and the host fault where memory is not theirs") {
  B::Context ctx;
  Buffer<float, B> a(ctx, 64);
  B::zero<float>(ctx, a.data(), 64);
  ctx.synchronize();
  CHECK(faults([&] { const_cast<volatile float*>(a.data())[0] = 1; }));  // the host
  CHECK(faults([&] {                                                     // past the end
    B::zero<float>(ctx, a.data(), 65);
    ctx.synchronize();
  }));
  CHECK(faults([&] {  // freed before the work was done
    float* p = a.data();
    a = Buffer<float, B>(ctx, 1);
    B::zero<float>(ctx, p, 1);
    ctx.synchronize();
  }));
}

TEST_CASE("a result that nobody waited for is not there") {
  B::Context ctx;
  Buffer<float, B> a(ctx, 8);
  B::zero<float>(ctx, a.data(), 8);
  std::vector<float> host(8, 1.0F);
  B::System::copy_bytes<float>(ctx, a.data(), host.data(), 8);
  CHECK(host != std::vector<float>(8, 0.0F));
  ctx.synchronize();
  CHECK(host == std::vector<float>(8, 0.0F));
}

TEST_CASE("what is not given back, at the end of the program") {
  const auto status_of = [](const auto& run) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      run();
      std::exit(0);  // with what static objects do
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  CHECK(status_of([] {}) == 0);
  CHECK(status_of([] { B::Context ctx; }) == 0);
  CHECK(status_of([] {
          void* p = nullptr;
          cudaMalloc(&p, 5);
        }) == 1);
  CHECK(status_of([] {
          cublasHandle_t blas = nullptr;
          cublasCreate(&blas);
        }) == 1);
  CHECK(status_of([] { new B::Context; }) == 1);
}

TEST_CASE("an earlier kernel's failure is told as such, by whichever call finds it") {
  B::Context ctx;
  Buffer<float, B> a(ctx, 64);
  Device::get().fail_with(cudaErrorIllegalAddress);
  const auto text_of = [](const auto& run) {
    try {
      run();
    } catch (const CudaError& error) {
      CHECK(error.status != 0);
      return std::string(error.what());
    }
    return std::string();
  };
  for (const std::string& text :
       {text_of([&] { ctx.synchronize(); }), text_of([&] { Buffer<float, B>(ctx, 1); }),
        text_of([&] { multiply(ctx, a, 8); }), text_of([&] { B::zero<float>(ctx, a.data(), 64); })}) {
    CHECK(text.find("an earlier kernel failed") != std::string::npos);
  }
  Device::get().fail_with(cudaSuccess);
  ctx.synchronize();
}
