// What data parallel costs, under mpirun; benchmarks/distributed.py runs it and writes the page. Rank 0 prints a JSON
// object a line.
//   bytes                       bytes that a rank sends in a step, counted, by run type and model
//   step TYPE WIRE MS EARLY N   N steps whose backward takes MS milliseconds a layer: time, and time waited
//   quality                     a planted problem by exact sums and by local selection
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>
#include <sparsegrad/extras/bucket_reduce.hpp>
#include <sparsegrad/extras/local_top_k.hpp>
#include <sparsegrad/extras/mpi_reduce.hpp>

namespace {

using namespace sparsegrad;
using B = DefaultBackend;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

void print(const Communicator& comm, const Json& line) {
  if (comm.rank() == 0) std::printf("%s\n", line.dump().c_str());
}

struct Kind {
  const char* name;
  index_t out, in;
  int count;  ///< in the model
};
struct Shapes {
  const char* name;
  std::vector<Kind> kinds;
};
/// The linear layers that are trained. Embeddings and heads are left out.
std::vector<Shapes> models() {
  return {{"BERT-base", {{"attention", 768, 768, 48}, {"up", 3072, 768, 12}, {"down", 768, 3072, 12}}},
          {"LLaMA-7B",
           {{"attention", 4096, 4096, 128}, {"gate, up", 11008, 4096, 64}, {"down", 4096, 11008, 32}}}};
}

constexpr double density = 0.012;  // the paper's

/// What a layer sends in a step of each run type: extents, and whether by local selection.
struct RunType {
  const char* name;
  index_t rows, cols;
  bool local;
};
std::vector<RunType> run_types(index_t out, index_t in) {
  const index_t kept = TopK::fraction(density, out * in).k;
  return {{"dense", out, in, false},
          {"exact core", out, in, false},
          {"one side of 64", 64, in, false},
          {"both sides of 256", 256, 256, false},
          {"fixed support 1.2 %", 1, kept, false},
          {"local top-k 1.2 %", out, in, true}};
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// ---- bytes ---------------------------------------------------------------------------------------------------------

void count_bytes(Communicator& comm) {
  B::Context ctx(1);
  for (const Shapes& model : models()) {
    const std::vector<RunType> types = run_types(1, 1);
    for (const WireType wire : {WireType::same, WireType::bfloat16}) {
      for (std::size_t t = 0; t < types.size(); ++t) {
        if (types[t].local && wire != WireType::same) continue;
        std::int64_t sent = 0;
        std::int64_t numbers = 0;
        for (const Kind& kind : model.kinds) {
          const RunType type = run_types(kind.out, kind.in)[t];
          std::unique_ptr<GradientReducer<float, B>> reducer;
          if (type.local) {
            const index_t k = TopK::fraction(density, kind.out * kind.in).k / comm.size();
            reducer = std::make_unique<LocalTopKReducer<float, B>>(comm, LocalTopKOptions{.entries = k});
            numbers += k * kind.count;
          } else {
            ReduceOptions options;
            options.buckets.wire = wire;
            reducer = std::make_unique<BucketReducer<float, B>>(comm, options);
            numbers += type.rows * type.cols * kind.count;
          }
          Buffer<float, B> g(ctx, type.rows * type.cols);
          const auto before = comm.traffic().sent_bytes;
          reducer->start(ctx, 0, g.matrix(type.rows, type.cols));
          reducer->wait(ctx, 0, g.matrix(type.rows, type.cols));
          sent += (comm.traffic().sent_bytes - before) * kind.count;
        }
        print(comm, {{"what", "bytes"},
                     {"model", model.name},
                     {"ranks", comm.size()},
                     {"type", types[t].name},
                     {"wire", wire == WireType::same ? "float" : "bfloat16"},
                     {"numbers", numbers},
                     {"sent", sent}});
      }
    }
    // The bases' collection: ten steps of gradients, or Gram sums once for each kind of layer.
    std::int64_t gradients = 0;
    std::int64_t sums = 0;
    for (const Kind& kind : model.kinds) {
      BucketReducer<float, B> reducer(comm);
      auto before = comm.traffic().sent_bytes;
      {
        Buffer<float, B> g(ctx, kind.out * kind.in);
        reducer.start(ctx, 0, g.matrix(kind.out, kind.in));
        reducer.wait(ctx, 0, g.matrix(kind.out, kind.in));
      }
      gradients += 10 * (comm.traffic().sent_bytes - before) * kind.count;
      before = comm.traffic().sent_bytes;
      HosvdAccumulator<float, B> accumulator(ctx, kind.out, kind.in);
      accumulator.reduce(ctx, [&](MatrixView<double> a, bool lower) { reducer.sum(ctx, a, lower); });
      const bool up = std::string(kind.name) == "gate, up";  // two kinds of one shape
      const bool attention = std::string(kind.name) == "attention";
      sums += (comm.traffic().sent_bytes - before) * (up ? 2 : attention ? 4 : 1);
    }
    print(comm, {{"what", "collection"},
                 {"model", model.name},
                 {"ranks", comm.size()},
                 {"gradients", gradients},
                 {"sums", sums}});
  }
}

// ---- steps ---------------------------------------------------------------------------------------------------------

/// Steps of BERT-base's linear layers: each layer's backward is a pause, then its six gradients are started.
void time_steps(Communicator& comm, std::size_t type, WireType wire, int milliseconds, bool early,
                int steps) {
  B::Context ctx(1);
  const std::vector<Kind> kinds = models()[0].kinds;
  std::vector<MatrixView<float>> gradients;
  std::vector<std::unique_ptr<Buffer<float, B>>> memory;
  std::unique_ptr<GradientReducer<float, B>> reducer;
  RunType chosen{};
  std::mt19937 random(static_cast<std::uint32_t>(comm.rank()) + 1);
  std::normal_distribution<float> normal;
  for (int layer = 0; layer < 12; ++layer) {
    for (const Kind& kind : kinds) {
      chosen = run_types(kind.out, kind.in)[type];
      for (int i = 0; i < kind.count / 12; ++i) {
        memory.push_back(std::make_unique<Buffer<float, B>>(ctx, chosen.rows * chosen.cols));
        gradients.push_back(memory.back()->matrix(chosen.rows, chosen.cols));
        // Equal numbers would be a selection's worst case.
        std::generate_n(gradients.back().data, gradients.back().size(), [&] { return normal(random); });
      }
    }
  }
  if (chosen.local) {
    const index_t k = TopK::fraction(density, index_t{768} * 768).k * 2 / comm.size();  // the layers' mean
    reducer = std::make_unique<LocalTopKReducer<float, B>>(comm, LocalTopKOptions{.entries = k});
  } else {
    ReduceOptions options;
    options.buckets.wire = wire;
    reducer = std::make_unique<BucketReducer<float, B>>(comm, options);
  }
  double waited = 0;
  std::int64_t sent = 0;
  double taken = 0;
  for (int step = -1; step < steps; ++step) {  // the first takes memory
    comm.barrier("begin of a step");
    const Traffic before = comm.traffic();
    const auto begin = Clock::now();
    index_t g = 0;
    const auto per_layer = static_cast<index_t>(gradients.size()) / 12;
    for (int layer = 0; layer < 12; ++layer) {
      for (index_t i = 0; i < per_layer; ++i, ++g) {
        std::this_thread::sleep_for(std::chrono::microseconds(1000 * milliseconds / per_layer));
        if (early) reducer->start(ctx, g, gradients[static_cast<std::size_t>(g)]);
      }
    }
    if (!early)
      for (g = 0; g < static_cast<index_t>(gradients.size()); ++g)
        reducer->start(ctx, g, gradients[static_cast<std::size_t>(g)]);
    for (g = 0; g < static_cast<index_t>(gradients.size()); ++g)
      reducer->wait(ctx, g, gradients[static_cast<std::size_t>(g)]);
    comm.barrier("end of a step");
    if (step < 0) continue;
    taken += seconds_since(begin);
    waited += comm.traffic().waited_seconds - before.waited_seconds;
    sent += comm.traffic().sent_bytes - before.sent_bytes;
  }
  print(comm, {{"what", "step"},
               {"ranks", comm.size()},
               {"type", chosen.name},
               {"wire", wire == WireType::same ? "float" : "bfloat16"},
               {"layer_ms", milliseconds},
               {"early", early},
               {"seconds", taken / steps},
               {"waited", waited / steps},
               {"sent", sent / steps}});
}

// ---- quality -------------------------------------------------------------------------------------------------------

/// A layer that is to learn W* = V D U^T, D sparse, from noisy tokens, each rank with its own. Returns the error on
/// tokens that nobody has trained on, relative to that of the start.
double learn(Communicator& comm, std::shared_ptr<GradientReducer<float, B>> reducer, index_t kept,
             std::uint32_t seed) {
  constexpr index_t out = 96, in = 64, rank = 24, tokens = 32, steps = 400, planted = 60;
  B::Context ctx(1);
  std::mt19937 common(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::mt19937& random, std::vector<float>& x, float scale) {
    for (float& v : x)
      v = scale * normal(random);
  };
  std::vector<float> v(out * rank), u(in * rank), target(out * in);
  fill(common, v, 1 / std::sqrt(static_cast<float>(out)));
  fill(common, u, 1 / std::sqrt(static_cast<float>(in)));
  for (index_t e = 0; e < planted; ++e) {
    const auto i = static_cast<index_t>(common() % rank);
    const auto j = static_cast<index_t>(common() % rank);
    const float d = normal(common);
    for (index_t r = 0; r < out; ++r)
      for (index_t c = 0; c < in; ++c)
        target[static_cast<std::size_t>(r * in + c)] +=
            d * v[static_cast<std::size_t>(r * rank + i)] * u[static_cast<std::size_t>(c * rank + j)];
  }
  std::vector<float> w(out * in);
  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  SparseGradGroup<float> group({.entries = kept,
                                .warmup_steps = 10,
                                .recipe = {.sides = [](const std::string&) {
                                  return SideRecipes{SideRecipe::hosvd(32), SideRecipe::hosvd(32)};
                                }}});
  group.add(ctx, layer, "planted");
  group.use_reduce(std::move(reducer));
  std::mt19937 own(seed * 1000 + static_cast<std::uint32_t>(comm.rank()) + 1);
  std::vector<float> x(tokens * in), y(tokens * out);
  for (index_t step = 0; step < steps; ++step) {
    fill(own, x, 1);
    const auto saved = layer.forward(ctx, {x.data(), tokens, in}, {y.data(), tokens, out});
    for (index_t t = 0; t < tokens; ++t)
      for (index_t r = 0; r < out; ++r) {
        float wanted = 0.3F * normal(own);
        for (index_t c = 0; c < in; ++c)
          wanted += target[static_cast<std::size_t>(r * in + c)] * x[static_cast<std::size_t>(t * in + c)];
        y[static_cast<std::size_t>(t * out + r)] -= wanted;
        y[static_cast<std::size_t>(t * out + r)] /= static_cast<float>(tokens * comm.size());
      }
    layer.backward(ctx, {y.data(), tokens, out}, saved, {}, nullptr);
    const double rate = 0.03 * (1 - static_cast<double>(step) / static_cast<double>(steps));
    group.step(ctx, {.learning_rate = rate});
  }
  double error = 0;
  double begin = 0;
  for (std::size_t e = 0; e < w.size(); ++e) {
    error += std::pow(static_cast<double>(w[e] - target[e]), 2);
    begin += std::pow(static_cast<double>(target[e]), 2);
  }
  return error / begin;
}

void compare_quality(Communicator& comm) {
  for (const index_t kept : {8, 24, 80}) {
    for (const bool local : {false, true}) {
      double sum = 0;
      constexpr std::uint32_t seeds = 5;
      const std::int64_t before = comm.traffic().sent_bytes;
      for (std::uint32_t seed = 1; seed <= seeds; ++seed) {
        std::shared_ptr<GradientReducer<float, B>> reducer;
        if (local) {
          reducer = std::make_shared<LocalTopKReducer<float, B>>(
              comm, LocalTopKOptions{.entries = kept / comm.size()});
        } else {
          reducer =
              std::make_shared<BucketReducer<float, B>>(comm, ReduceOptions{.collected = Collected::sums});
        }
        sum += learn(comm, std::move(reducer), kept, seed);
      }
      print(comm, {{"what", "quality"},
                   {"ranks", comm.size()},
                   {"way", local ? "local top-k" : "exact"},
                   {"kept", kept},
                   {"error", sum / seeds},
                   {"sent", static_cast<double>(comm.traffic().sent_bytes - before) / seeds / 400}});
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &threads);
  int status = 0;
  try {
    const std::string mode = argc > 1 ? argv[1] : "";
    // A step's sums go on beside the backward pass where they begin in it.
    const bool early = mode == "step" && argc == 7 && std::atoi(argv[5]) != 0;
    MpiCommunicator comm(MPI_COMM_WORLD, {.progress_thread = early && threads == MPI_THREAD_MULTIPLE});
    if (mode == "bytes") {
      count_bytes(comm);
    } else if (mode == "quality") {
      compare_quality(comm);
    } else if (mode == "step" && argc == 7) {
      time_steps(comm, static_cast<std::size_t>(std::atoi(argv[2])),
                 std::string(argv[3]) == "bfloat16" ? WireType::bfloat16 : WireType::same, std::atoi(argv[4]),
                 std::atoi(argv[5]) != 0, std::atoi(argv[6]));
    } else {
      std::fprintf(stderr, "usage: benchmark_mpi bytes | quality | step TYPE float|bfloat16 MS 0|1 STEPS\n");
      status = 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return status;
}
