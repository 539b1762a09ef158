#include <sparsegrad/io/reducer_file.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/extras/local_top_k.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

namespace {

using Local = LocalTopKReducer<double, B>;
using State = ReducerState<double>;

std::vector<double> residual(const Local& reducer, index_t layer) {
  const MatrixView<const double> e = reducer.residual(layer);
  return {e.data, e.data + e.size()};
}

io::SafetensorsFile file_of(const io::SafetensorsWriter& writer) {
  return io::SafetensorsFile(io::FileBytes::from(writer.bytes()), "f");
}

/// The sum of a random 6 x 8 gradient of layer 1, which leaves a residual.
std::vector<double> step(B::Context& ctx, Local& reducer, std::uint64_t seed) {
  oracle::Random random(seed);
  oracle::Matrix g = random.matrix(6, 8);
  const MatrixView<double> view(g.data.data(), 6, 8);
  reducer.start(ctx, 1, view);
  reducer.wait(ctx, 1, view);
  return g.data;
}

}  // namespace

TEST_CASE("reducer files: residuals keep their bits, of the layers that have any") {
  B::Context ctx;
  SingleRank comm;
  Local first(comm, {.entries = 3});
  step(ctx, first, 1);
  io::SafetensorsWriter writer;
  io::put(ctx, writer, "r.", first);
  const io::SafetensorsFile file = file_of(writer);
  CHECK(file.contains("r.residual.1"));
  CHECK_FALSE(file.contains("r.residual.0"));

  Local second(comm, {.entries = 3});
  io::get(ctx, file, "r.", second);
  CHECK(residual(second, 0).empty());
  CHECK(residual(second, 1).size() == 48);
  CHECK(residual(second, 1) == residual(first, 1));
  const std::vector<double> expected = step(ctx, first, 2);
  CHECK(step(ctx, second, 2) == expected);
  CHECK(residual(second, 1) == residual(first, 1));

  Local from_zero(comm, {.entries = 3});
  CHECK(step(ctx, from_zero, 2) != expected);
}

TEST_CASE("reducer files: what does not fit is refused and changes nothing") {
  B::Context ctx;
  SingleRank comm;
  Local reducer(comm, {.entries = 3});
  step(ctx, reducer, 1);
  const std::vector<double> before = residual(reducer, 1);
  const State good = reducer.state(ctx);
  CHECK(good.rank == 0);
  CHECK(good.ranks == 1);
  const auto refused = [&](const std::function<void(State&)>& change) {
    State state = good;
    change(state);
    const std::string text = message_of([&] { reducer.restore(ctx, state); });
    CHECK(residual(reducer, 1) == before);
    return text;
  };
  CHECK(refused([](State& s) { s.ranks = 2; }) ==
        "the saved residuals are those of rank 0 of 2, expected rank 0 of 1; without them they begin at 0");
  CHECK(contains(refused([](State& s) { s.rank = 1; }), "those of rank 1 of 1, expected rank 0 of 1"));
  CHECK(contains(refused([](State& s) { s.residuals[1][7] = std::nan(""); }),
                 "residual of gradient 1 holds NaN or Inf at entry 7"));
  CHECK(contains(refused([](State& s) { s = {}; }), "a reducer without residuals"));

  // Between start and wait an entry is neither in the residual nor in the sum.
  std::vector<double> g(48, 1.0);
  const MatrixView<double> view(g.data(), 6, 8);
  reducer.start(ctx, 1, view);
  CHECK(contains(message_of([&] { (void)reducer.state(ctx); }), "entries of gradient 1 are on their way"));
  CHECK(contains(message_of([&] { reducer.restore(ctx, good); }), "restore: the entries of gradient 1"));
  reducer.wait(ctx, 1, view);
  reducer.restore(ctx, good);
  CHECK(residual(reducer, 1) == before);

  // Of another basis.
  MatrixView<double> smaller(g.data(), 4, 8);
  CHECK(message_of([&] { reducer.start(ctx, 1, smaller); }) ==
        "the restored residual has 48 entries, its gradient 32: it is of another basis or selection");
  CHECK(residual(reducer, 1) == before);
  reducer.forget(1);
  reducer.start(ctx, 1, smaller);
  reducer.wait(ctx, 1, smaller);
  CHECK(residual(reducer, 1).size() == 32);

  // A reducer that keeps nothing has a state without residuals, and takes no others.
  BucketReducer<double, B> exact(comm);
  CHECK(exact.state(ctx).residuals.empty());
  exact.restore(ctx, exact.state(ctx));
  CHECK(contains(message_of([&] { exact.restore(ctx, good); }), "this reducer keeps none"));
}

TEST_CASE("reducer files: a damaged file is an IoError that names the tensor") {
  B::Context ctx;
  SingleRank comm;
  Local reducer(comm, {.entries = 3});
  const auto message = [&](const std::vector<std::int64_t>& rank, const std::vector<std::int64_t>& sizes,
                           const std::vector<double>& values, const char* type = "gradient_reducer 1") {
    io::SafetensorsWriter writer;
    writer.metadata("r.type", type);
    writer.add("r.rank", {static_cast<index_t>(rank.size())}, rank);
    writer.add("r.sizes", {static_cast<index_t>(sizes.size())}, sizes);
    writer.add("r.residual.0", {static_cast<index_t>(values.size())}, values);
    const io::SafetensorsFile file = file_of(writer);
    try {
      io::get(ctx, file, "r.", reducer);
    } catch (const IoError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  CHECK(message({0, 1}, {2}, {1, 2}) == "nothing was thrown");
  CHECK(residual(reducer, 0) == std::vector<double>{1, 2});
  CHECK(contains(message({0, 2}, {2}, {1, 2}), "f: 'r.': the saved residuals are those of rank 0 of 2"));
  CHECK(contains(message({0}, {2}, {1, 2}), "'r.rank'"));
  CHECK(contains(message({-1, 1}, {2}, {1, 2}), "'r.rank' has -1, expected one in [0, 2^31)"));
  CHECK(contains(message({0, std::int64_t{1} << 32}, {2}, {1, 2}), "'r.rank' has 4294967296"));
  CHECK(contains(message({0, 1}, {3}, {1, 2}), "'r.residual.0' has shape [2], expected [3]"));
  CHECK(contains(message({0, 1}, {-2}, {1, 2}), "'r.residual.0' has shape [2], expected [-2]"));
  CHECK(contains(message({0, 1}, {2, 1}, {1, 2}), "'r.residual.1' is missing"));
  CHECK(contains(message({0, 1}, {2}, {1, std::nan("")}), "'r.residual.0' has NaN at element 1"));
  CHECK(contains(message({0, 1}, {2}, {1, 2}, "sparse_adam 1"), "'r.' is a 'sparse_adam 1'"));
  CHECK(residual(reducer, 0) == std::vector<double>{1, 2});

  io::SafetensorsWriter writer;
  LocalTopKReducer<float, B> single(comm, {.entries = 3});
  std::vector<float> g(48, 1.0f);
  const MatrixView<float> view(g.data(), 6, 8);
  single.start(ctx, 0, view);
  single.wait(ctx, 0, view);
  io::put(ctx, writer, "r.", single);
  const io::SafetensorsFile floats = file_of(writer);
  CHECK(contains(message_of([&] { io::get(ctx, floats, "r.", reducer); }), "has dtype F32, expected F64"));
}

TEST_CASE("reducer files: a restored group's reducer begins with 0, and takes its own state after it") {
  SingleRank comm;
  Model model;
  Group group(keeping(4));
  model.add_to(group);
  const auto reducer = std::make_shared<Local>(comm, LocalTopKOptions{.entries = 2});
  group.use_reduce(reducer);
  model.add_gradients();
  group.step(model.ctx, {.learning_rate = 0.01});
  const auto of_group = group.state(model.ctx);
  const State own = reducer->state(model.ctx);
  const std::vector<double> before = residual(*reducer, 2);
  CHECK(before.size() == 48);
  group.restore(model.ctx, of_group);
  CHECK(residual(*reducer, 2).empty());
  reducer->restore(model.ctx, own);
  CHECK(residual(*reducer, 2) == before);
}
