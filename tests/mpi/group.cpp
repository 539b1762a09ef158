// A group whose processes each have a part of the data, against one process with all of it.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include <sparsegrad/extras/bucket_reduce.hpp>
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/local_top_k.hpp>
#include <sparsegrad/extras/mpi_reduce.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;
using namespace std::chrono_literals;

namespace {

constexpr int tokens = 12;  // of all ranks: 1 to 4 divide it

struct Case {
  BasisRecipe recipe;
  bool share_memory = false;
  bool support = false;
  bool sampled = false;        ///< the support's entries alone are computed
  bool start_early = false;    ///< each layer's sum begins behind its backward
  bool micro_batches = false;  ///< parts are summed by themselves
  Collected collected = Collected::gradients;
  index_t bucket_bytes = 100;
};

using Sampled = FixedSupportLinear<double, B>;
using Entries = SparseGradient<double, B>;
using Reducer = BucketReducer<double, B>;

/// Collects two gradients, fits, takes three steps, the last without a gradient of layer 1 but on rank 0. `parts` of
/// this process, which are parts `first` and on of `all`, are micro-batches.
struct Run {
  int first = 0;
  int parts = 1;
  int all = 1;
  Communicator* comm = nullptr;
};

Weights train(const Run& run, const Case& c) {
  Model model;
  GroupOptions options = keeping(7);
  options.share_gradient_memory = c.share_memory;
  const ReduceOptions reduce{
      .buckets = {.bucket_bytes = c.bucket_bytes}, .collected = c.collected, .check = true};
  Group group(options);
  model.add_to(group);
  if (run.comm != nullptr) group.use_reduce(std::make_shared<Reducer>(*run.comm, reduce));

  // Backward of part p of layer i's tokens.
  const auto backward = [&](auto& layer, std::size_t i, const oracle::Matrix& x, const oracle::Matrix& dy,
                            int p) {
    const int count = tokens / run.all;
    const MatrixView<const double> xs(x.data.data() + static_cast<std::ptrdiff_t>(p * count * x.cols), count,
                                      x.cols);
    const MatrixView<const double> dys(dy.data.data() + static_cast<std::ptrdiff_t>(p * count * dy.cols),
                                       count, dy.cols);
    (void)i;
    if constexpr (requires { layer.backward(model.ctx, dys, xs, MatrixView<double>(), nullptr); }) {
      layer.backward(model.ctx, dys, xs, {}, nullptr);
    } else {
      layer.backward(model.ctx, dys, SavedInput<double>{xs, false}, {}, nullptr);
    }
  };
  const auto pass = [&](Group& used, auto& layers, bool collecting, bool uneven) {
    for (std::size_t i = 3; i-- > 0;) {
      const auto n = static_cast<index_t>(i);
      const oracle::Matrix x = model.random.matrix(tokens, static_cast<int>(used.source(n).in_extent()));
      const oracle::Matrix dy = model.random.matrix(tokens, static_cast<int>(used.source(n).out_extent()));
      for (int p = run.first; p < run.first + run.parts; ++p) {
        if (uneven && i == 1 && p != 0) continue;
        if (c.micro_batches && p != run.first) used.end_micro_batch(model.ctx, n);
        backward(*layers[i], i, x, dy, p);
        if (collecting && c.collected == Collected::sums && run.comm == nullptr)
          used.end_collecting_step(model.ctx, n);  // each part is a gradient of its own
      }
      if (c.share_memory && collecting) used.end_collecting_step(model.ctx, n);
      if (c.share_memory && !collecting) used.select(model.ctx, n, true);
      if (c.start_early) used.start_reduce(model.ctx, n);
    }
  };
  group.collect(model.ctx, c.recipe);
  for (int step = 0; step < 2; ++step) {
    pass(group, model.layers, true, false);
    group.end_collecting_step(model.ctx);
  }
  group.refresh(model.ctx);
  for (std::size_t i = 0; i < 3 && c.support; ++i) {
    group.use_selector(model.ctx, static_cast<index_t>(i),
                       FixedSupport<double, B>(model.ctx, support_of(model, i)));
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
  if (run.comm != nullptr) sampling.use_reduce(std::make_shared<Reducer>(*run.comm, reduce));
  for (int step = 0; step < 3; ++step) {
    Group& used = c.sampled ? sampling : group;
    if (c.sampled) {
      pass(used, sampled, false, step == 2);
    } else {
      pass(used, model.layers, false, step == 2);
    }
    // The norm of a fixed support's values is that of its core only where the core is summed.
    const bool clips = !(c.support && c.start_early);
    const double norm = clips ? std::sqrt(used.squared_norm(model.ctx)) : 1;
    used.step(model.ctx, {.learning_rate = 0.01, .grad_scale = std::min(1.0, 1 / norm)});
  }
  return model.weights;
}

double difference(const Weights& a, const Weights& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t e = 0; e < a[i].size(); ++e)
      worst = std::max(worst, std::abs(a[i][e] - b[i][e]));
  return worst;
}

std::uint64_t hash(const Weights& weights) {
  std::uint64_t h = hash_bytes({});
  for (const auto& w : weights)
    h = hash_bytes(std::as_bytes(std::span(w)), h);
  return h;
}

}  // namespace

TEST_CASE("mpi: ranks that each have a part of the tokens train as one process with all of them") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  const auto five = SideRecipe::hosvd(5);
  const auto four = SideRecipe::hosvd(4);
  std::vector<Case> cases = {{recipe_of(SideRecipe::hosvd(), four)},
                             {recipe_of(five, four, BasisScope::layer)},
                             {recipe_of(five, SideRecipe::identity())},
                             {recipe_of(five, four)},
                             {recipe_of(five, four)}};
  cases[2].share_memory = true;
  cases[3].support = true;
  cases[4].sampled = true;
  for (std::size_t i = 0; i < 5; ++i) {
    Case early = cases[i];
    early.start_early = true;
    early.bucket_bytes = 1 << 20;
    if (!early.share_memory) cases.push_back(early);
  }
  for (const Collected collected : {Collected::gradients, Collected::sums}) {
    for (Case c : cases) {
      c.collected = collected;
      CAPTURE(static_cast<int>(collected));
      CAPTURE(&c - cases.data());
      const Weights expected = train({.parts = comm.size(), .all = comm.size()}, c);
      const Weights found = train({.first = comm.rank(), .all = comm.size(), .comm = &comm}, c);
      CHECK(difference(found, expected) < 1e-9);  // sums in another order
      comm.require_equal(hash(found), "the trained weights");
      if (c.collected == Collected::sums) continue;
      c.micro_batches = true;
      CHECK(hash(found) == hash(train({.parts = comm.size(), .all = comm.size()}, c)));
    }
  }
}

TEST_CASE("mpi: a fixed support sends its values alone, Gram sums less than gradients") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  const auto sent = [&](bool support, bool norm) {
    Model model;
    Group group(keeping(3));
    model.add_to(group);
    group.use_reduce(std::make_shared<Reducer>(comm));
    if (support) {
      for (std::size_t i = 0; i < 3; ++i)
        group.use_selector(model.ctx, static_cast<index_t>(i),
                           FixedSupport<double, B>(model.ctx, support_of(model, i)));
    }
    model.add_gradients();
    const auto before = comm.traffic().payload_bytes;
    if (norm) (void)group.squared_norm(model.ctx);
    group.step(model.ctx, {.learning_rate = 0.01});
    return comm.traffic().payload_bytes - before;
  };
  CHECK(sent(false, false) == 3 * 48 * 8);
  CHECK(sent(true, false) == 3 * 3 * 8);
  CHECK(sent(true, true) == 3 * 48 * 8);  // the norm is the core's

  const auto collected = [&](Collected what) {
    Model model;
    Group group(keeping(3));
    model.add_to(group);
    group.use_reduce(std::make_shared<Reducer>(comm, ReduceOptions{.collected = what}));
    group.collect(model.ctx, recipe_of(SideRecipe::hosvd(5), SideRecipe::identity()));
    const auto before = comm.traffic().payload_bytes;
    for (int step = 0; step < 10; ++step) {
      model.add_gradients();
      group.end_collecting_step(model.ctx);
    }
    group.refresh(model.ctx);
    CHECK(model.layers[2]->basis()->report().gradients == (what == Collected::sums ? 10 * comm.size() : 10));
    return comm.traffic().payload_bytes - before;
  };
  CHECK(collected(Collected::gradients) == 10 * 3 * 48 * 8);
  // The lower triangles of [8, 8] and [6, 6], and for each basis the number and the energy.
  CHECK(collected(Collected::sums) == (36 + 21 + 2 * 2) * 8);
}

TEST_CASE("mpi: the check finds ranks that select other entries, before anything changes") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  if (comm.size() == 1) return;
  Model model;
  Group group(keeping(3));
  model.add_to(group);
  group.use_reduce(std::make_shared<Reducer>(comm, ReduceOptions{.check = true}));
  const int other = comm.size() - 1;
  if (comm.rank() == other) {
    group.use_selector(
        [](B::Context& ctx, MatrixView<const double> core, Entries& s) { TopK{2}(ctx, core, s); });
  }
  const Weights before = model.weights;
  model.add_gradients();
  const std::string text = message_of([&] { group.step(model.ctx, {.learning_rate = 0.01}); });
  CHECK(contains(text, "entries selected in this step: rank " + std::to_string(other)));
  CHECK(model.weights == before);
  group.clear(model.ctx);
  group.use_selector(nullptr);
  model.add_gradients();
  group.step(model.ctx, {.learning_rate = 0.01});
  CHECK(model.weights != before);
}

TEST_CASE("mpi: NaN in a sum is told with the ranks that it comes from") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  const int other = comm.size() - 1;
  const std::string from = "; it comes from rank " + std::to_string(other);
  const auto spoiled = [&](Model& model, double value, bool everywhere = false) {
    model.random = oracle::Random(7);
    for (std::size_t i = 0; i < 3; ++i) {
      oracle::Matrix g = model.random.matrix(static_cast<int>(model.layers[i]->out_extent()),
                                             static_cast<int>(model.layers[i]->in_extent()));
      if (i == 1 && (everywhere || comm.rank() == other)) g.data[5] = value;
      model.add(i, g);
    }
  };
  const auto refused = [&](std::shared_ptr<GradientReducer<double, B>> reducer, bool support, double value,
                           bool everywhere = false) {
    const bool asks = dynamic_cast<Reducer*>(reducer.get()) != nullptr;
    Model model;
    Group group(keeping(3));
    model.add_to(group);
    group.use_reduce(std::move(reducer));
    for (std::size_t i = 0; i < 3 && support; ++i)
      group.use_selector(model.ctx, static_cast<index_t>(i),
                         FixedSupport<double, B>(model.ctx, support_of(model, i)));
    spoiled(model, value, everywhere);
    const Weights before = model.weights;
    const auto start = comm.traffic().sent_bytes;
    const std::string text = message_of([&] { group.step(model.ctx, {.learning_rate = 0.01}); });
    CHECK(model.weights == before);
    group.clear(model.ctx);
    const auto failed = comm.traffic().sent_bytes;
    model.add_gradients();
    group.step(model.ctx, {.learning_rate = 0.01});
    // A step that is whole sends nothing for it: the other one has asked all ranks by a byte.
    const auto whole = comm.traffic().sent_bytes - failed;
    CHECK(failed - start - whole == (asks ? comm.size() - 1 : 0));
    return text;
  };
  const double nan = std::nan("");
  for (const bool support : {false, true}) {
    const std::string text = refused(std::make_shared<Reducer>(comm), support, nan);
    CHECK_MESSAGE(contains(text, "layer 1"), text);
    CHECK_MESSAGE(contains(text, "NaN"), text);
    CHECK_MESSAGE(contains(text, from), text);
  }
  CHECK(contains(refused(std::make_shared<LocalTopKReducer<double, B>>(comm, LocalTopKOptions{.entries = 3}),
                         false, nan),
                 from));
  if (comm.size() > 1) {
    CHECK(contains(refused(std::make_shared<Reducer>(comm), false, nan, true), "it comes from ranks 0, 1"));
    CHECK(contains(refused(std::make_shared<Reducer>(comm), false, 1.6e308, true),
                   "; every rank's own part is finite, and their sum is not"));
  }

  // While bases are collected too; of sums of one's own each rank is told of its own.
  for (const Collected collected : {Collected::gradients, Collected::sums}) {
    Model model;
    Group group(keeping(3));
    model.add_to(group);
    group.use_reduce(std::make_shared<Reducer>(comm, ReduceOptions{.collected = collected}));
    group.collect(model.ctx, recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4)));
    spoiled(model, nan);
    const bool throws = collected == Collected::gradients || comm.rank() == other;
    const std::string text = message_of([&] { group.end_collecting_step(model.ctx); });
    CHECK_MESSAGE(contains(text, "NaN") == throws, text);
    CHECK_MESSAGE(contains(text, from) == (collected == Collected::gradients), text);
  }
  // A function of the caller's knows no ranks.
  Model model;
  Group group(keeping(3));
  model.add_to(group);
  group.use_reduce([](B::Context&, MatrixView<double>) {});
  spoiled(model, nan, true);
  const std::string text = message_of([&] { group.step(model.ctx, {.learning_rate = 0.01}); });
  CHECK_MESSAGE(contains(text, "expected finite numbers"), text);
  CHECK_MESSAGE(!contains(text, "rank"), text);
}

TEST_CASE("mpi: sums that were started and given up leave the next step whole") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  Model model;
  Group group(keeping(3));
  model.add_to(group);
  group.use_reduce(std::make_shared<Reducer>(comm));
  model.add_gradients();
  group.start_reduce(model.ctx, 1);
  CHECK_THROWS_AS(model.add_gradient(1), StateError);
  group.clear(model.ctx);
  const oracle::Matrix g = model.add_gradient(0);
  const auto before = comm.traffic().payload_bytes;
  group.start_reduce(model.ctx, 0);
  CHECK(group.finish(model.ctx, 0).data[3] == doctest::Approx(comm.size() * g.data[3]));
  CHECK(comm.traffic().payload_bytes - before == 48 * 8);  // nothing of layer 1's
  group.clear(model.ctx);

  Group sharing(GroupOptions{.entries = 3, .share_gradient_memory = true});
  Model shared;
  shared.add_to(sharing);
  sharing.use_reduce(std::make_shared<Reducer>(comm));
  CHECK_THROWS_AS(sharing.start_reduce(shared.ctx, 0), StateError);
}

TEST_CASE("mpi: local selection sends the largest entries and remembers the rest") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  CHECK_THROWS_AS((LocalTopKReducer<double, B>(comm, {})), ValueError);
  B::Context ctx;
  oracle::Random random(static_cast<std::uint64_t>(comm.rank() + 1));
  LocalTopKReducer<double, B> reducer(comm, {.entries = 5});
  std::vector<double> given(48), summed(48);
  for (int step = 0; step < 6; ++step) {
    oracle::Matrix g = random.matrix(6, 8);
    for (std::size_t e = 0; e < 48; ++e)
      given[e] += g.data[e];
    const auto before = comm.traffic().sent_bytes;
    const MatrixView<double> view(g.data.data(), 6, 8);
    reducer.start(ctx, 2, view);
    reducer.wait(ctx, 2, view);
    CHECK(comm.traffic().sent_bytes - before == (comm.size() - 1) * 5 * (8 + 4));
    CHECK(std::count_if(g.data.begin(), g.data.end(), [](double x) { return x != 0; }) <= 5 * comm.size());
    comm.require_equal(hash({g.data}), "the merged entries");
    for (std::size_t e = 0; e < 48; ++e)
      summed[e] += g.data[e];
  }
  // Nothing is lost: what was sent and what waits is what came, over all ranks.
  std::vector<double> rest(reducer.residual(2).data, reducer.residual(2).data + 48);
  comm.sum(std::span(rest));
  comm.sum(std::span(given));
  for (std::size_t e = 0; e < 48; ++e)
    CHECK(summed[e] + rest[e] == doctest::Approx(given[e]).epsilon(1e-12));
  const std::vector<double> kept(reducer.residual(2).data, reducer.residual(2).data + 48);

  // A sum that is given up leaves the residual as it was.
  oracle::Matrix unused = random.matrix(6, 8);
  reducer.start(ctx, 2, {unused.data.data(), 6, 8});
  reducer.abandon();
  CHECK(std::equal(kept.begin(), kept.end(), reducer.residual(2).data));

  // A gradient with NaN is sent, and the residual stays, on all ranks.
  oracle::Matrix bad = random.matrix(6, 8);
  if (comm.rank() == 0) bad.data[7] = std::nan("");
  const MatrixView<double> view(bad.data.data(), 6, 8);
  reducer.start(ctx, 2, view);
  reducer.wait(ctx, 2, view);
  CHECK(std::isnan(bad.data[7]));
  CHECK(std::equal(kept.begin(), kept.end(), reducer.residual(2).data));
  reducer.forget(2);
  CHECK(reducer.residual(2).empty());
  CHECK(reducer.residual(9).empty());
}

TEST_CASE("mpi: a group trains by local selection, the same on all ranks") {
  MpiCommunicator comm(MPI_COMM_WORLD, {.timeout = 60s});
  // All entries of every rank: the exact sum.
  const auto train_with = [&](std::shared_ptr<GradientReducer<double, B>> reducer) {
    Model model;
    Group group(keeping(12));
    model.add_to(group);
    group.use_reduce(std::move(reducer));
    group.collect(model.ctx, recipe_of(SideRecipe::hosvd(5), SideRecipe::hosvd(4)));
    for (int step = 0; step < 5; ++step) {
      oracle::Random own(static_cast<std::uint64_t>(10 * step + comm.rank()));
      for (std::size_t i = 0; i < 3; ++i)
        model.add(i, own.matrix(static_cast<int>(model.layers[i]->out_extent()),
                                static_cast<int>(model.layers[i]->in_extent())));
      if (step == 1) {
        group.end_collecting_step(model.ctx);
        group.refresh(model.ctx);
      } else if (step > 1) {
        group.step(model.ctx, {.learning_rate = 0.01});
      } else {
        group.end_collecting_step(model.ctx);
      }
    }
    comm.require_equal(hash(model.weights), "the trained weights");
    return model.weights;
  };
  const Weights exact =
      train_with(std::make_shared<Reducer>(comm, ReduceOptions{.collected = Collected::sums, .check = true}));
  const auto local = [&](index_t k) {
    return train_with(
        std::make_shared<LocalTopKReducer<double, B>>(comm, LocalTopKOptions{.entries = k, .check = true}));
  };
  CHECK(difference(local(48), exact) < 1e-9);
  CHECK(difference(local(2), exact) > 1e-9);
}
