// Two workers, each with half of the data, against one with all of it.
#include <doctest/doctest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <sparsegrad/extras/device_reduce.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

/// Sums over two workers that call it side by side, by a table of where their arrays are.
class AllReduce {
 public:
  void operator()(int worker, MatrixView<double> g) {
    part_[worker].assign(g.data, g.data + g.size());
    barrier_.arrive_and_wait();
    for (std::size_t e = 0; e < part_[0].size(); ++e)
      g.data[e] = part_[0][e] + part_[1][e];
    ++calls_[worker];
    barrier_.arrive_and_wait();
  }
  int calls(int worker) const { return calls_[worker]; }

 private:
  std::barrier<> barrier_{2};
  std::vector<double> part_[2];
  int calls_[2] = {0, 0};
};

/// An engine of two ranks in one process, as a DeviceReducer calls NCCL: work on a stream is done when
/// somebody waits for it, and not before.
struct Engine {
  struct Shared {
    std::barrier<> both{2};
    const void* part[2] = {nullptr, nullptr};
  };
  struct Rank {
    Shared* shared = nullptr;
    int number = 0;
    int sums = 0;
    int fails_at = -1;  ///< the sum that fails
    bool lost = false;  ///< an error that came later
  };
  struct Queue {
    std::vector<std::function<void()>> work;
    std::size_t done = 0;
    bool follows = false;  ///< the context's work was waited for
  };
  struct Mark {
    Queue* queue = nullptr;
    std::size_t work = 0;
  };
  using Comm = Rank*;
  using Stream = Queue*;
  using Event = Mark*;

  static int rank(Comm comm) { return comm->number; }
  static int size(Comm) { return 2; }
  static Event make_event() { return new Mark; }
  static void destroy(Event event) { delete event; }
  template <class Context>
  static void follow(Stream stream, Event, const Context&) {
    stream->follows = true;
  }
  template <class N, class F>
  static void exchange(Comm comm, Stream stream, N* p, index_t n, F combine) {
    if (comm->sums++ == comm->fails_at) throw CommunicationError("ncclAllReduce: unhandled system error");
    REQUIRE(std::exchange(stream->follows, false));
    stream->work.push_back([=] {
      const std::vector<N> mine(p, p + n);
      comm->shared->part[comm->number] = mine.data();
      comm->shared->both.arrive_and_wait();
      for (index_t e = 0; e < n; ++e)
        p[e] = combine(static_cast<const N*>(comm->shared->part[0])[e],
                       static_cast<const N*>(comm->shared->part[1])[e]);
      comm->shared->both.arrive_and_wait();
    });
  }
  template <class N>
  static void sum(Comm comm, Stream stream, N* p, index_t n) {
    exchange(comm, stream, p, n, [](N a, N b) { return N(a + b); });
  }
  static void most(Comm comm, Stream stream, std::uint64_t* p, index_t n) {
    exchange(comm, stream, p, n, [](std::uint64_t a, std::uint64_t b) { return std::max(a, b); });
  }
  static void record(Event event, Stream stream) { *event = {stream, stream->work.size()}; }
  template <class Context>
  static void wait(const Context&, Event event) {
    while (event->queue->done < event->work)
      event->queue->work[event->queue->done++]();
  }
  static void poll(Comm comm) {
    if (comm->lost) throw CommunicationError("a sum before: remote process exited");
  }
};

constexpr int tokens = 6;

struct Data {
  explicit Data(Model& model, std::size_t i)
      : x(model.random.matrix(tokens, static_cast<int>(model.layers[i]->in_extent()))),
        dy(model.random.matrix(tokens, static_cast<int>(model.layers[i]->out_extent()))) {}
  oracle::Matrix x, dy;
};

/// Backward of the tokens [first, first + count) of layer i.
void backward(Model& model, std::size_t i, const Data& data, int first, int count) {
  const MatrixView<const double> x(data.x.data.data(), tokens, data.x.cols);
  const MatrixView<const double> dy(data.dy.data.data(), tokens, data.dy.cols);
  model.layers[i]->backward(model.ctx, dy.block(first, 0, count, dy.cols),
                            SavedInput<double>{x.block(first, 0, count, x.cols), false}, {}, nullptr);
}

using Sampled = FixedSupportLinear<double, B>;

void backward(Model& model, Sampled& layer, const Data& data, int first, int count) {
  const MatrixView<const double> x(data.x.data.data(), tokens, data.x.cols);
  const MatrixView<const double> dy(data.dy.data.data(), tokens, data.dy.cols);
  layer.backward(model.ctx, dy.block(first, 0, count, dy.cols), x.block(first, 0, count, x.cols), {},
                 nullptr);
}

struct Case {
  BasisRecipe recipe;
  bool share_memory = false;
  bool support = false;
  bool sampled = false;  ///< the support's entries alone are computed
};

/// Two collecting steps, the fit, three steps, the last of which gives layer 1 tokens on worker 0 alone.
Weights train(int worker, int workers, const std::function<void(Group&)>& use_reduce, const Case& c) {
  Model model;
  GroupOptions options = keeping(7);
  options.share_gradient_memory = c.share_memory;
  Group group(options);
  model.add_to(group);
  if (use_reduce) use_reduce(group);
  const auto pass = [&](bool collecting, bool uneven) {
    for (std::size_t i = 0; i < 3; ++i) {
      const Data data(model, i);
      const bool alone = uneven && i == 1;
      const int count = workers == 1 || alone ? tokens : tokens / 2;
      if (!alone || worker == 0) backward(model, i, data, worker * tokens / 2, count);
      if (c.share_memory && collecting) group.end_collecting_step(model.ctx, static_cast<index_t>(i));
      if (c.share_memory && !collecting) group.select(model.ctx, static_cast<index_t>(i), true);
    }
  };
  group.collect(model.ctx, c.recipe);
  for (int step = 0; step < 2; ++step) {
    pass(true, false);
    group.end_collecting_step(model.ctx);
  }
  group.refresh(model.ctx);
  for (std::size_t i = 0; i < 3 && c.support; ++i) {
    const auto n = static_cast<index_t>(i);
    group.use_selector(model.ctx, n, FixedSupport<double, B>(model.ctx, support_of(model, i)));
  }
  // Another group over the same weights, whose layers form no core.
  std::vector<std::unique_ptr<Sampled>> sampled;
  Group sampling(options);
  for (std::size_t i = 0; i < 3 && c.sampled; ++i) {
    const Layer& layer = *model.layers[i];
    sampled.push_back(std::make_unique<Sampled>(model.ctx, layer.trained_weight(), nullptr, layer.basis(),
                                                support_of(model, i)));
    sampling.add(model.ctx, *sampled.back(), group.kind(static_cast<index_t>(i)));
  }
  if (use_reduce) use_reduce(sampling);
  for (int step = 0; step < 3; ++step) {
    if (c.sampled) {
      for (std::size_t i = 0; i < 3; ++i) {
        const Data data(model, i);
        const bool alone = step == 2 && i == 1;
        const int count = workers == 1 || alone ? tokens : tokens / 2;
        if (!alone || worker == 0) backward(model, *sampled[i], data, worker * tokens / 2, count);
      }
    } else {
      pass(false, step == 2);
    }
    Group& used = c.sampled ? sampling : group;
    const double norm = std::sqrt(used.squared_norm(model.ctx));
    used.step(model.ctx, {.learning_rate = 0.01, .grad_scale = std::min(1.0, 1 / norm)});
  }
  return model.weights;
}

}  // namespace

TEST_CASE("data parallel: two workers that reduce are one worker with both halves of the data") {
  for (const Case& c : {Case{recipe_of(SideRecipe::hosvd(), SideRecipe::hosvd(4))},
                        Case{recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4), BasisScope::layer)},
                        Case{recipe_of(SideRecipe::hosvd(5), SideRecipe::identity()), true},
                        Case{recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4)), false, true},
                        Case{recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4)), false, false, true}}) {
    const Weights expected = train(0, 1, nullptr, c);
    AllReduce all_reduce;
    Weights found[2];
    const auto worker = [&](int w) {
      found[w] = train(
          w, 2,
          [&](Group& group) {
            group.use_reduce([&, w](B::Context&, MatrixView<double> g) { all_reduce(w, g); });
          },
          c);
    };
    std::thread other(worker, 1);
    worker(0);
    other.join();
    CHECK(found[0] == found[1]);
    CHECK(all_reduce.calls(0) == 3 * 5);  // once a layer and step
    double worst = 0;
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t e = 0; e < expected[i].size(); ++e)
        worst = std::max(worst, std::abs(found[0][i][e] - expected[i][e]));
    CHECK(worst < 1e-10);  // sums in another order
  }
}

TEST_CASE("data parallel: devices whose engine sums on a stream of its own train as one process") {
  for (const bool sums : {false, true}) {
    for (const index_t bucket_bytes : {1, 500, 1 << 20}) {
      const Case c{recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4))};
      const Weights expected = train(0, 1, nullptr, c);
      Engine::Shared shared;
      Weights found[2];
      const auto worker = [&](int w) {
        Engine::Rank rank{&shared, w};
        Engine::Queue stream;
        found[w] = train(
            w, 2,
            [&](Group& group) {
              group.use_reduce(std::make_shared<DeviceReducer<double, B, Engine>>(
                  &rank, &stream,
                  DeviceReduceOptions{.bucket_bytes = bucket_bytes,
                                      .collected = sums ? Collected::sums : Collected::gradients,
                                      .check = true}));
            },
            c);
        CHECK(stream.done == stream.work.size());
      };
      std::thread other(worker, 1);
      worker(0);
      other.join();
      CHECK(found[0] == found[1]);
      if (sums) continue;  // bases of twice as many gradients
      for (std::size_t i = 0; i < 3; ++i)
        for (std::size_t e = 0; e < expected[i].size(); ++e)
          CHECK(std::abs(found[0][i][e] - expected[i][e]) < 1e-10);
    }
  }
}

TEST_CASE(
    "data parallel: devices send 16 bits where it is asked for, and an engine's errors name rank and call") {
  using Reducer = DeviceReducer<float, B, Engine>;
  Engine::Shared shared;
  float found[2][5];
  const auto worker = [&](int w) {
    Engine::Rank rank{&shared, w};
    Engine::Queue stream;
    B::Context ctx;
    Reducer reducer(&rank, &stream, {.wire = WireType::bfloat16});
    for (int e = 0; e < 5; ++e)
      found[w][e] = static_cast<float>(e + w) / 3;
    reducer.start(ctx, 0, MatrixView<float>(found[w], 1, 2));
    reducer.start(ctx, 1, MatrixView<float>(found[w] + 2, 1, 3));
    CHECK(stream.work.empty());
    reducer.wait(ctx, 0, MatrixView<float>(found[w], 1, 2));
    reducer.wait(ctx, 1, MatrixView<float>(found[w] + 2, 1, 3));
    CHECK(stream.work.size() == 1);
  };
  std::thread other(worker, 1);
  worker(0);
  other.join();
  for (int e = 0; e < 5; ++e) {
    CHECK(found[0][e] == found[1][e]);
    const float parts = static_cast<float>(bfloat16(static_cast<float>(e) / 3)) +
                        static_cast<float>(bfloat16(static_cast<float>(e + 1) / 3));
    CHECK(found[0][e] == static_cast<float>(bfloat16(parts)));
  }

  Engine::Rank rank{&shared, 1};
  Engine::Queue stream;
  B::Context ctx;
  std::vector<float> many(100);
  Reducer small(&rank, &stream, {.bucket_bytes = 40});
  small.start(ctx, 0, MatrixView<float>(many.data(), 1, 0));
  small.start(ctx, 1, MatrixView<float>(many.data(), 1, 100));  // larger than the bucket that was begun
  CHECK(stream.work.size() == 2);
  rank.sums = 0;
  float g[4] = {1, 2, 3, 4};
  Reducer reducer(&rank, &stream, {.bucket_bytes = 8});
  rank.fails_at = 1;
  reducer.start(ctx, 0, MatrixView<float>(g, 1, 2));
  CHECK(message_of([&] { reducer.start(ctx, 1, MatrixView<float>(g + 2, 1, 2)); }) ==
        "rank 1 of 2: bucket 1 of gradients: ncclAllReduce: unhandled system error");
  rank.lost = true;
  CHECK(message_of([&] { reducer.wait(ctx, 0, MatrixView<float>(g, 1, 2)); }) ==
        "rank 1 of 2: bucket 0 of gradients: a sum before: remote process exited");
  CHECK_THROWS_AS((DeviceReducer<double, B, Engine>(&rank, &stream, {.wire = WireType::bfloat16})),
                  ValueError);
  CHECK_THROWS_AS(Reducer(&rank, &stream, {.bucket_bytes = 0}), ValueError);
}

TEST_CASE("data parallel: a gradient that was finished before it could be reduced is refused") {
  Model model;
  Group group(keeping(5));
  model.add_to(group);
  int calls = 0;
  group.use_reduce([&](B::Context&, MatrixView<double> g) {
    ++calls;
    for (index_t e = 0; e < g.size(); ++e)
      g.data[e] *= 2;
  });
  const oracle::Matrix g = model.add_gradient(0);
  CHECK(group.finish(model.ctx, 0).data[3] == 2 * g.data[3]);
  CHECK(group.finish(model.ctx, 0).data[3] == 2 * g.data[3]);
  CHECK(model.layers[0]->core(model.ctx).data[3] == 2 * g.data[3]);
  CHECK(calls == 1);
  CHECK_THROWS_AS(group.use_reduce(nullptr), StateError);
  model.add_gradient(1);
  model.layers[1]->core(model.ctx);
  const Weights before = model.weights;
  CHECK(contains(message_of([&] { group.step(model.ctx, {}); }), "layer 1"));
  CHECK(model.weights == before);
  group.clear(model.ctx);

  // NaN in the sum is refused after the reduction, and not reduced again.
  group.collect(model.ctx, {});
  oracle::Matrix bad = g;
  bad.data[0] = std::nan("");
  model.add(0, bad);
  calls = 0;
  CHECK_THROWS_AS(group.finish(model.ctx, 0), NonFiniteError);
  CHECK_THROWS_AS(group.finish(model.ctx, 0), NonFiniteError);
  CHECK(calls == 1);
  CHECK_THROWS_AS(model.add(0, g), StateError);
}

TEST_CASE("data parallel: a reduce that throws leaves a gradient that no step takes") {
  struct Broken : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  for (const bool collecting : {false, true}) {
    for (const bool steps : {false, true}) {
      for (const bool own_basis : {false, true}) {
        if (!collecting && !steps) continue;
        CAPTURE(collecting);
        CAPTURE(steps);
        CAPTURE(own_basis);
        Model model;
        Model other;
        Group group(keeping(5));
        Group usual(keeping(5));
        model.add_to(group);
        other.add_to(usual);
        if (own_basis) {
          for (const auto& [g, m] : {std::pair(&group, &model), std::pair(&usual, &other)})
            g->set_basis(m->ctx, 1,
                         TuckerBasis<double, B>::from_recipes(m->ctx, 8, 6, SideRecipe::random(5),
                                                              SideRecipe::hadamard()));
        }
        if (collecting) {
          group.collect(model.ctx, {});
          usual.collect(other.ctx, {});
        }
        int calls = 0;
        bool fails = true;
        const auto twice = [](MatrixView<double> g) {
          for (index_t e = 0; e < g.size(); ++e)
            g.data[e] *= 2;
        };
        usual.use_reduce([&](B::Context&, MatrixView<double> g) { twice(g); });
        group.use_reduce([&](B::Context&, MatrixView<double> g) {
          twice(g);  // in part, or all: the library cannot know
          if (++calls == 2 && fails) throw Broken("the network is gone");
        });
        const auto end = [&](Group& g, Model& m) {
          if (steps) {
            g.step(m.ctx, {.learning_rate = 0.1});
          } else {
            g.end_collecting_step(m.ctx);
          }
        };
        const Weights before = model.weights;
        const oracle::Random random = model.random;
        model.add_gradients();
        CHECK_THROWS_AS(end(group, model), Broken);
        for (int again = 0; again < 2; ++again)
          CHECK(contains(message_of([&] { end(group, model); }),
                         "layer 1 ('up'): use_reduce's function threw"));
        CHECK_THROWS_AS(group.squared_norm(model.ctx), StateError);
        CHECK_THROWS_AS(group.finish(model.ctx, 1), StateError);
        CHECK(calls == 2);
        CHECK(model.weights == before);
        group.clear(model.ctx);
        fails = false;
        model.random = random;
        model.add_gradients();
        other.add_gradients();
        end(group, model);
        end(usual, other);
        CHECK(model.weights == other.weights);
        if (!collecting) continue;
        // Layer 0 had been collected before the reduce of layer 1 failed.
        group.refresh(model.ctx);
        CHECK(model.layers[2]->basis()->report().gradients == 1);
      }
    }
  }
}
