// Times of backend::Cuda by CUDA events, warm, with the L2 cache flushed before each: top-k, Adam and the optimizer step of
// BERT-base's 24 MLP matrices (each plain and as a replayed graph), forward, backward and step of one such layer and of all
// 24 against the dense ones, accumulation and fit, device memory of RoBERTa-large's matrices. Google Benchmark's options apply, such as --benchmark_filter, --benchmark_repetitions, --benchmark_out.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/sparsegrad_cuda.cuh>

#include "../data.hpp"

namespace {

using namespace sparsegrad;
using B = backend::Cuda;
using backend::cuda::check;
using bench::normal_matrix;

constexpr index_t wide = 3072;
constexpr index_t narrow = 768;
constexpr index_t entries = 28000;

/// Reads n numbers, and writes one where their sum is what it cannot be: what they push out of the L2 cache are numbers
/// that memory has too, so that nothing is left to be written back while the clock runs.
__global__ void read_all(const float4* x, index_t n, float* never) {
  float sum = 0;
  for (index_t e = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < n;
       e += static_cast<index_t>(gridDim.x) * blockDim.x) {
    const float4 v = x[e];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum != 0) *never = sum;
}

/// What the stream does between start() and stop(), in seconds.
class Timer {
 public:
  explicit Timer(B::Context& ctx) : ctx_(ctx), flush_(ctx, index_t{64} << 20) {
    B::zero<float>(ctx, flush_.data(), flush_.size());
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void start() {
    read_all<<<1024, 256, 0, ctx_.stream()>>>(reinterpret_cast<const float4*>(flush_.data()),
                                              flush_.size() / 4, flush_.data());
    check(cudaGetLastError(), "read_all");
    check(cudaEventRecord(begin_, ctx_.stream()), "cudaEventRecord");
  }
  double stop() {
    check(cudaEventRecord(end_, ctx_.stream()), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

 private:
  B::Context& ctx_;
  Buffer<float, B> flush_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

/// Runs `work` for the state's iterations after two that warm up; `prepare` is not timed.
template <class Prepare, class Work>
void time_work(benchmark::State& state, B::Context& ctx, const Prepare& prepare, const Work& work) {
  Timer timer(ctx);
  for (int i = 0; i < 2; ++i) {
    prepare();
    work();
  }
  for (auto _ : state) {
    prepare();
    timer.start();
    work();
    state.SetIterationTime(timer.stop());
  }
}
constexpr auto nothing = [] {};

/// What `work` puts on the stream, as a graph: its launches cost the host nothing when it is replayed.
class Graph {
 public:
  template <class Work>
  Graph(B::Context& ctx, const Work& work) : stream_(ctx.stream()) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    work();
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    const cudaError_t made = cudaGraphInstantiate(&replay_, graph, 0);
    cudaGraphDestroy(graph);
    check(made, "cudaGraphInstantiate");
  }
  ~Graph() { cudaGraphExecDestroy(replay_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch() const { check(cudaGraphLaunch(replay_, stream_), "cudaGraphLaunch"); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t replay_ = nullptr;
};

/// Plain, or replayed as a graph after one run that warms up.
template <class Work>
void time_launches(benchmark::State& state, B::Context& ctx, bool as_graph, const Work& work) {
  if (!as_graph) return time_work(state, ctx, nothing, work);
  work();
  const Graph graph(ctx, work);
  time_work(state, ctx, nothing, [&] { graph.launch(); });
}

void top_k(benchmark::State& state, bool as_graph) {
  B::Context ctx;
  const index_t n = state.range(0);
  const index_t k = state.range(1);
  const Buffer<float, B> x = normal_matrix<B>(ctx, n / 1024, 1024, 1.0F, 1);
  Buffer<stored_index_t, B> index(ctx, k);
  Buffer<float, B> value(ctx, k);
  time_launches(state, ctx, as_graph,
                [&] { B::top_k<float>(ctx, x.data(), x.size(), k, index.data(), value.data()); });
  state.counters["bytes/s"] =
      benchmark::Counter(static_cast<double>(4 * n * state.iterations()), benchmark::Counter::kIsRate);
}

struct OneSet {
  const char* name;
  index_t rank;  ///< of the one-sided basis; 0: both sides full
  bool all;      ///< every entry of the core, else `entries`
  bool tf32;
  bool graph;
};

/// The 24 MLP matrices of BERT-base with bases and dense optimizer states.
struct Matrices {
  explicit Matrices(const OneSet& set) {
    ctx.allow_tf32(set.tf32);
    GroupOptions options;
    options.entries = set.all ? wide * narrow : entries;
    group = std::make_unique<SparseGradGroup<float, B>>(options);
    for (int i = 0; i < 24; ++i) {
      const bool up = i % 2 == 0;
      const index_t out = up ? wide : narrow;
      const index_t in = up ? narrow : wide;
      weights.push_back(normal_matrix<B>(ctx, out, in, 0.0F, 10));
      layers.push_back(
          std::make_unique<SparseGradLinear<float, B>>(ctx, weights.back().matrix(out, in), nullptr));
    }
    for (std::size_t i = 0; i < layers.size(); ++i)
      group->add(ctx, *layers[i], i % 2 == 0 ? "up" : "down");
    BasisRecipe recipe;
    recipe.sides = [&](const std::string& kind) {
      if (set.rank == 0) return SideRecipes{};
      const SideRecipe truncated = SideRecipe::hosvd(set.rank);
      return kind == "up" ? SideRecipes{SideRecipe::identity(), truncated}
                          : SideRecipes{truncated, SideRecipe::identity()};
    };
    group->collect(ctx, recipe);
    for (int i = 0; i < 2; ++i) {
      gradients[static_cast<std::size_t>(i)] =
          normal_matrix<B>(ctx, i == 0 ? wide : narrow, i == 0 ? narrow : wide, 1.0F, 20);
    }
    add_gradients();
    group->end_collecting_step(ctx);
    group->refresh(ctx);
    group->reserve(ctx, 1);
  }
  void add_gradients() {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      SparseGradLinear<float, B>& layer = *layers[i];
      layer.add_gradient(ctx, gradients[i % 2].matrix(layer.out_extent(), layer.in_extent()));
    }
  }
  void step() { group->step(ctx, {.learning_rate = 1e-4}); }

  B::Context ctx;
  std::array<Buffer<float, B>, 2> gradients;
  std::vector<Buffer<float, B>> weights;
  std::vector<std::unique_ptr<SparseGradLinear<float, B>>> layers;
  std::unique_ptr<SparseGradGroup<float, B>> group;
};

/// From gradients in the form that backward leaves to weights: what remains of the rotation, selection, Adam, way back.
void optimizer_step(benchmark::State& state, const OneSet& set) {
  Matrices m(set);
  if (!set.graph)
    return time_work(
        state, m.ctx, [&] { m.add_gradients(); }, [&] { m.step(); });
  m.add_gradients();
  m.step();
  m.group->count_on_device(m.ctx);
  m.add_gradients();
  const Graph graph(m.ctx, [&] { m.step(); });
  time_work(
      state, m.ctx,
      [&] {
        m.group->clear(m.ctx);
        m.add_gradients();
      },
      [&] { graph.launch(); });
}

void adam_of_24(benchmark::State& state, bool as_graph) {
  B::Context ctx;
  const index_t size = wide * narrow;
  const auto support = bench::random_support<B>(ctx, wide, narrow, entries, 2 * entries, 3);
  const Buffer<float, B> g = normal_matrix<B>(ctx, 1, support.count(), 0.0F, 4);
  std::vector<Buffer<float, B>> arrays;
  std::vector<AdamTask<float>> tasks;
  for (int i = 0; i < 24; ++i) {
    for (int a = 0; a < 3; ++a)
      arrays.emplace_back(ctx, size);
    float* const m = arrays[arrays.size() - 3].data();
    float* const v = arrays[arrays.size() - 2].data();
    tasks.push_back({g.data(), support.indices(), support.count(), m, v, nullptr, arrays.back().data(), 1});
  }
  const AdamCoefficients c{.learning_rate = 1e-4};
  time_launches(state, ctx, as_graph,
                [&] { B::adam_batched<float>(ctx, c, std::span<const AdamTask<float>>(tasks)); });
}

struct LayerSet {
  const char* name;
  index_t rank;  ///< -1: the dense step; 0: both sides full
  bool all;
  bool tf32;
};

/// Forward, backward and the whole optimizer step of one layer 768 -> 3072; the dense step takes AdamW's step over all
/// entries, and its gradient by the same products.
void layer_step(benchmark::State& state, const LayerSet& set) {
  B::Context ctx;
  ctx.allow_tf32(set.tf32);
  const index_t tokens = state.range(0);
  Buffer<float, B> weight = normal_matrix<B>(ctx, wide, narrow, 0.0F, 1);
  const Buffer<float, B> x = normal_matrix<B>(ctx, tokens, narrow, 1.0F, 2);
  const Buffer<float, B> dy = normal_matrix<B>(ctx, tokens, wide, 1.0F, 3);
  Buffer<float, B> y(ctx, tokens * wide);
  Buffer<float, B> dx(ctx, tokens * narrow);
  if (set.rank < 0) {
    Buffer<float, B> dw(ctx, wide * narrow);
    Buffer<float, B> m(ctx, wide * narrow);
    Buffer<float, B> v(ctx, wide * narrow);
    const MatrixView<float> w = weight.matrix(wide, narrow);
    const AdamCoefficients c{.learning_rate = 1e-4};
    time_work(state, ctx, nothing, [&] {
      B::gemm<float>(ctx, Op::none, Op::transpose, 1, x.matrix(tokens, narrow), w, 0, y.matrix(tokens, wide));
      B::gemm<float>(ctx, Op::none, Op::none, 1, dy.matrix(tokens, wide), w, 0, dx.matrix(tokens, narrow));
      B::gemm<float>(ctx, Op::transpose, Op::none, 1, dy.matrix(tokens, wide), x.matrix(tokens, narrow), 0,
                     dw.matrix(wide, narrow));
      B::adam<float>(ctx, c, dw.data(), nullptr, dw.size(), m.data(), v.data(), nullptr, dw.data());
      B::add<float>(ctx, 1, dw.matrix(wide, narrow), w);
    });
    return;
  }
  LinearOptions linear;
  linear.workload.tokens = tokens;
  SparseGradLinear<float, B> layer(ctx, weight.matrix(wide, narrow), nullptr, linear);
  GroupOptions options;
  options.entries = set.all ? wide * narrow : entries;
  SparseGradGroup<float, B> group(options);
  group.add(ctx, layer, "up");
  BasisRecipe recipe;
  recipe.sides = [&](const std::string&) {
    return set.rank == 0 ? SideRecipes{} : SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(set.rank)};
  };
  Buffer<float, B> keep;
  const auto pass = [&] {
    const auto saved = layer.forward(ctx, x.matrix(tokens, narrow), y.matrix(tokens, wide),
                                     keep.matrix(tokens, layer.kept_cols()));
    layer.backward(ctx, dy.matrix(tokens, wide), saved, dx.matrix(tokens, narrow), nullptr);
  };
  group.collect(ctx, recipe);
  pass();
  group.end_collecting_step(ctx);
  group.refresh(ctx);
  keep.resize(ctx, tokens * layer.kept_cols());
  group.reserve(ctx, tokens);
  time_work(state, ctx, nothing, [&] {
    pass();
    group.step(ctx, {.learning_rate = 1e-4});
  });
}

struct ModelSet {
  const char* name;
  index_t rank;  ///< -1: the dense step; 0: both sides full
  bool all;
};

/// Forward, backward and the whole optimizer step of BERT-base's 24 MLP matrices at once, weights and tokens in T, masters,
/// cores and moments in float: what the model's matrices do in a step of ft and of sparse. All layers read the same tokens.
template <class T>
void mlp_step(benchmark::State& state, const ModelSet& set) {
  constexpr std::size_t count = 24;
  B::Context ctx;
  const index_t tokens = state.range(0);
  const auto rounded = [&](const Buffer<float, B>& values) {
    Buffer<T, B> to(ctx, values.size());
    if constexpr (is_low_precision<T>) {
      B::round_to<T>(ctx, values.matrix(1, values.size()), to.matrix(1, to.size()));
    } else {
      B::copy<T>(ctx, values.matrix(1, values.size()), to.matrix(1, to.size()));
    }
    return to;
  };
  const Buffer<T, B> few = rounded(normal_matrix<B>(ctx, tokens, narrow, 1.0F, 1));
  const Buffer<T, B> many = rounded(normal_matrix<B>(ctx, tokens, wide, 1.0F, 2));
  Buffer<T, B> few_out(ctx, tokens * narrow);
  Buffer<T, B> many_out(ctx, tokens * wide);
  std::vector<Buffer<float, B>> masters;
  std::vector<Buffer<T, B>> weights;
  for (std::size_t i = 0; i < count; ++i) {
    masters.push_back(normal_matrix<B>(ctx, wide, narrow, 0.0F, 10));
    if (is_low_precision<T>) weights.push_back(rounded(masters.back()));
  }
  const auto extents = [](std::size_t i) {
    return i % 2 == 0 ? std::pair(wide, narrow) : std::pair(narrow, wide);  // out, in
  };
  const auto tokens_in = [&](std::size_t i) {
    return (i % 2 == 0 ? few : many).matrix(tokens, extents(i).second);
  };
  const auto gradient_of = [&](std::size_t i) {
    return (i % 2 == 0 ? many : few).matrix(tokens, extents(i).first);
  };
  const auto to_outputs = [&](std::size_t i) {
    return (i % 2 == 0 ? many_out : few_out).matrix(tokens, extents(i).first);
  };
  const auto to_inputs = [&](std::size_t i) {
    return (i % 2 == 0 ? few_out : many_out).matrix(tokens, extents(i).second);
  };
  // Multiply-adds of forward, dX and dW: the same for every run type, so that the rates compare.
  const auto rate = [&] {
    state.counters["flop/s"] =
        benchmark::Counter(static_cast<double>(count) * 6.0 * static_cast<double>(tokens * wide * narrow) *
                               static_cast<double>(state.iterations()),
                           benchmark::Counter::kIsRate);
  };
  if (set.rank < 0) {
    std::vector<Buffer<float, B>> moments;
    for (std::size_t i = 0; i < 2 * count; ++i)
      moments.emplace_back(ctx, wide * narrow);
    Buffer<float, B> dw(ctx, wide * narrow);
    const AdamCoefficients c{.learning_rate = 1e-4};
    time_work(state, ctx, nothing, [&] {
      for (std::size_t i = 0; i < count; ++i) {
        const auto [out, in] = extents(i);
        MatrixView<float> master = masters[i].matrix(out, in);
        const MatrixView<float> g = dw.matrix(out, in);
        const auto products = [&](MatrixView<T> w) {
          B::gemm<T>(ctx, Op::none, Op::transpose, 1, tokens_in(i), w, 0, to_outputs(i));
          B::gemm<T>(ctx, Op::none, Op::none, 1, gradient_of(i), w, 0, to_inputs(i));
        };
        if constexpr (is_low_precision<T>) {
          products(weights[i].matrix(out, in));
          B::gemm_wide<T>(ctx, Op::transpose, Op::none, 1, gradient_of(i), tokens_in(i), 0, g);
        } else {
          products(master);
          B::gemm<T>(ctx, Op::transpose, Op::none, 1, gradient_of(i), tokens_in(i), 0, g);
        }
        B::adam<float>(ctx, c, dw.data(), nullptr, dw.size(), moments[2 * i].data(),
                       moments[2 * i + 1].data(), nullptr, dw.data());
        B::add<float>(ctx, 1, g, master);
        if constexpr (is_low_precision<T>) B::round_to<T>(ctx, master, weights[i].matrix(out, in));
      }
    });
    return rate();
  }
  LinearOptions linear;
  linear.workload.tokens = tokens;
  std::vector<std::unique_ptr<SparseGradLinear<T, B>>> layers;
  GroupOptions options;
  options.entries = set.all ? wide * narrow : entries;
  SparseGradGroup<T, B> group(options);
  for (std::size_t i = 0; i < count; ++i) {
    const auto [out, in] = extents(i);
    if constexpr (is_low_precision<T>) {
      layers.push_back(std::make_unique<SparseGradLinear<T, B>>(ctx, weights[i].matrix(out, in),
                                                                masters[i].matrix(out, in), nullptr, linear));
    } else {
      layers.push_back(
          std::make_unique<SparseGradLinear<T, B>>(ctx, masters[i].matrix(out, in), nullptr, linear));
    }
    group.add(ctx, *layers.back(), i % 2 == 0 ? "up" : "down");
  }
  BasisRecipe recipe;
  recipe.sides = [&](const std::string& kind) {
    if (set.rank == 0) return SideRecipes{};
    const SideRecipe truncated = SideRecipe::hosvd(set.rank);
    return kind == "up" ? SideRecipes{SideRecipe::identity(), truncated}
                        : SideRecipes{truncated, SideRecipe::identity()};
  };
  std::vector<Buffer<T, B>> keep(count);
  const auto pass = [&] {
    for (std::size_t i = 0; i < count; ++i) {
      const auto saved = layers[i]->forward(ctx, tokens_in(i), to_outputs(i),
                                            keep[i].matrix(tokens, layers[i]->kept_cols()));
      layers[i]->backward(ctx, gradient_of(i), saved, to_inputs(i), nullptr);
    }
  };
  group.collect(ctx, recipe);
  pass();
  group.end_collecting_step(ctx);
  group.refresh(ctx);
  for (std::size_t i = 0; i < count; ++i)
    keep[i].resize(ctx, tokens * layers[i]->kept_cols());
  group.reserve(ctx, tokens);
  time_work(state, ctx, nothing, [&] {
    pass();
    group.step(ctx, {.learning_rate = 1e-4});
  });
  rate();
}

/// Device memory that the sparse training of RoBERTa-large's 48 MLP matrices takes, in float: weights, gradients, states,
/// bases. Time is that of one optimizer step.
void roberta_large(benchmark::State& state, index_t rank) {
  constexpr index_t large_wide = 4096;
  constexpr index_t large_narrow = 1024;
  std::size_t before = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&before, &total), "cudaMemGetInfo");
  B::Context ctx;
  std::vector<Buffer<float, B>> weights;
  std::vector<std::unique_ptr<SparseGradLinear<float, B>>> layers;
  GroupOptions options;
  SparseGradGroup<float, B> group(options);
  for (int i = 0; i < 48; ++i) {
    const index_t out = i % 2 == 0 ? large_wide : large_narrow;
    const index_t in = i % 2 == 0 ? large_narrow : large_wide;
    weights.push_back(normal_matrix<B>(ctx, out, in, 0.0F, 10));
    layers.push_back(
        std::make_unique<SparseGradLinear<float, B>>(ctx, weights.back().matrix(out, in), nullptr));
    group.add(ctx, *layers.back(), i % 2 == 0 ? "up" : "down");
  }
  std::vector<Buffer<float, B>> gradients;
  for (int i = 0; i < 2; ++i)
    gradients.push_back(normal_matrix<B>(ctx, i == 0 ? large_wide : large_narrow,
                                         i == 0 ? large_narrow : large_wide, 1.0F, 20));
  const auto add_gradients = [&] {
    for (std::size_t i = 0; i < layers.size(); ++i)
      layers[i]->add_gradient(ctx, gradients[i % 2].matrix(layers[i]->out_extent(), layers[i]->in_extent()));
  };
  BasisRecipe recipe;
  recipe.sides = [&](const std::string& kind) {
    if (rank == 0) return SideRecipes{};
    const SideRecipe truncated = SideRecipe::hosvd(rank);
    return kind == "up" ? SideRecipes{SideRecipe::identity(), truncated}
                        : SideRecipes{truncated, SideRecipe::identity()};
  };
  group.collect(ctx, recipe);
  add_gradients();
  group.end_collecting_step(ctx);
  group.refresh(ctx);
  group.reserve(ctx, 4096);
  check(cudaMemGetInfo(&after, &total), "cudaMemGetInfo");
  time_work(state, ctx, add_gradients, [&] { group.step(ctx, {.learning_rate = 1e-4}); });
  state.counters["device bytes"] = static_cast<double>(before - after);
}

/// Gram sums of 132 gradients 768 x 3072 of both sides, and the fit.
void accumulate_and_fit(benchmark::State& state) {
  B::Context ctx;
  const Buffer<float, B> g = normal_matrix<B>(ctx, narrow, wide, 1.0F, 1);
  time_work(state, ctx, nothing, [&] {
    HosvdAccumulator<float, B> accumulator(ctx, narrow, wide, {});
    for (int i = 0; i < 132; ++i)
      accumulator.add(ctx, g.matrix(narrow, wide));
    benchmark::DoNotOptimize(
        TuckerBasis<float, B>::fit(ctx, accumulator, SideRecipe::hosvd(), SideRecipe::hosvd()));
  });
}
BENCHMARK(accumulate_and_fit)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(3);

void register_sets() {
  for (const bool graph : {false, true}) {
    const std::string ending = graph ? "/graph" : "";
    benchmark::RegisterBenchmark(("top_k" + ending).c_str(),
                                 [graph](benchmark::State& state) { top_k(state, graph); })
        ->Args({wide * narrow, entries})
        ->Args({index_t{1} << 24, (index_t{1} << 24) * 12 / 1000})
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("adam_of_24" + ending).c_str(),
                                 [graph](benchmark::State& state) { adam_of_24(state, graph); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
    for (const OneSet& set :
         {OneSet{"both_full/float", 0, false, false, graph}, OneSet{"both_full/tf32", 0, false, true, graph},
          OneSet{"one_sided_64/top_k", 64, false, false, graph},
          OneSet{"one_sided_64/all", 64, true, false, graph}}) {
      const std::string name = std::string("optimizer_step_of_24/") + set.name + (graph ? "/graph" : "");
      benchmark::RegisterBenchmark(name.c_str(),
                                   [set](benchmark::State& state) { optimizer_step(state, set); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  for (const bool tf32 : {false, true}) {
    for (const LayerSet& set :
         {LayerSet{"dense", -1, true, tf32}, LayerSet{"both_full/top_k", 0, false, tf32},
          LayerSet{"one_sided_64/top_k", 64, false, tf32}, LayerSet{"one_sided_64/all", 64, true, tf32}}) {
      const std::string name = std::string("layer_step/") + set.name + (tf32 ? "/tf32" : "/float");
      benchmark::RegisterBenchmark(name.c_str(), [set](benchmark::State& state) { layer_step(state, set); })
          ->Arg(2048)
          ->Arg(4096)
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  for (const ModelSet& set :
       {ModelSet{"dense", -1, true}, ModelSet{"both_full/top_k", 0, false},
        ModelSet{"one_sided_64/top_k", 64, false}, ModelSet{"one_sided_64/all", 64, true}}) {
    const std::string name = std::string("mlp_step_of_24/") + set.name;
    benchmark::RegisterBenchmark((name + "/bf16").c_str(),
                                 [set](benchmark::State& state) { mlp_step<bfloat16>(state, set); })
        ->Arg(4096)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((name + "/float").c_str(),
                                 [set](benchmark::State& state) { mlp_step<float>(state, set); })
        ->Arg(4096)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  for (const index_t rank : {index_t{64}, index_t{0}}) {
    const std::string name =
        std::string("roberta_large_step_of_48/") + (rank == 0 ? "both_full" : "one_sided_64");
    benchmark::RegisterBenchmark(name.c_str(),
                                 [rank](benchmark::State& state) { roberta_large(state, rank); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "benchmark_gpu: no GPU to measure: %s\n", cudaGetErrorString(found));
    return 1;
  }
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  benchmark::AddCustomContext("device", device.name);
  benchmark::AddCustomContext("cuda_runtime", std::to_string(CUDART_VERSION));
  register_sets();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
