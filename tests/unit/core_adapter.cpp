// CoreAdapter: a trained core beside a frozen weight, against plain loops.
#include <sparsegrad/extras/core_adapter.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/io/group_file.hpp>
#include <sparsegrad/sparse_grad_group.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;
using oracle::Matrix;

namespace {

/// One side of a basis with its matrix.
template <class Backend>
struct Side {
  BasisSide<double, Backend> side;
  Matrix matrix;
};

template <class Backend>
Side<Backend> side_of(typename Backend::Context& ctx, const std::string& kind, int n,
                      oracle::Random& random) {
  Matrix eye(n, n);
  for (int i = 0; i < n; ++i)
    eye(i, i) = 1;
  if (kind == "identity") return {BasisSide<double, Backend>::identity(n), eye};
  if (kind == "hadamard") {
    auto side = BasisSide<double, Backend>::hadamard(ctx, n, 5);
    Matrix u(n, n);
    side.project_columns(ctx, MatrixView<const double>(eye.data.data(), n, n),
                         MatrixView<double>(u.data.data(), n, n));
    return {std::move(side), u};
  }
  const int rank = kind == "full" ? n : n / 3;
  const Matrix u = random.orthonormal(n, rank);
  return {BasisSide<double, Backend>::from_factor(ctx, MatrixView<const double>(u.data.data(), n, rank)), u};
}

MatrixView<double> view(Matrix& m) {
  return {m.data.data(), m.rows, m.cols};
}
MatrixView<const double> view(const Matrix& m) {
  return {m.data.data(), m.rows, m.cols};
}

template <class T>
Matrix matrix_of(MatrixView<T> v) {
  Matrix m(static_cast<int>(v.rows), static_cast<int>(v.cols));
  for (int i = 0; i < m.rows; ++i)
    for (int j = 0; j < m.cols; ++j)
      m(i, j) = v(i, j);
  return m;
}

double difference(const Matrix& a, const Matrix& b) {
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.cols == b.cols);
  double worst = 0;
  for (std::size_t e = 0; e < a.data.size(); ++e)
    worst = std::max(worst, std::abs(a.data[e] - b.data[e]));
  return worst;
}

}  // namespace

static_assert(!std::is_move_constructible_v<CoreAdapter<double, B>> &&
              !std::is_copy_constructible_v<CoreAdapter<double, B>>);

TEST_CASE_TEMPLATE("an adapter computes what its merged weight does", Backend, backend::Reference,
                   backend::Cpu, backend::CpuBlas) {
  using Gradient = SparseGradient<double, Backend>;
  typename Backend::Context ctx(2);
  oracle::Random random(31);
  const int out = 7;
  const int in = 9;
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    for (const auto& kinds : std::vector<std::pair<std::string, std::string>>{{"truncated", "truncated"},
                                                                              {"truncated", "identity"},
                                                                              {"truncated", "full"},
                                                                              {"identity", "truncated"},
                                                                              {"hadamard", "truncated"},
                                                                              {"identity", "hadamard"}}) {
      const auto& out_kind = kinds.first;  // clang++ 14 cannot CAPTURE a structured binding
      const auto& in_kind = kinds.second;
      CAPTURE(out_kind);
      CAPTURE(in_kind);
      const Matrix w = random.matrix(out, in);
      const Matrix b = random.matrix(1, out);
      Matrix weight = layout == WeightLayout::out_in ? w : oracle::transposed(w);
      const std::vector<double> before = weight.data;
      auto v = side_of<Backend>(ctx, out_kind, out, random);
      auto u = side_of<Backend>(ctx, in_kind, in, random);
      const auto basis = TuckerBasis<double, Backend>::from_sides(std::move(v.side), std::move(u.side));
      CoreAdapter<double, Backend> adapter(ctx, view(std::as_const(weight)), b.data.data(), basis, layout);
      Gradient d(ctx, basis->rows(), basis->cols(), 2);
      d.assign(ctx, std::vector<stored_index_t>{1, 3}, std::vector<double>{0.5, -2.0});
      adapter.apply(ctx, d);
      adapter.apply(ctx, d);
      CHECK(weight.data == before);
      CHECK(adapter.delta().data[1] == 1);
      CHECK(adapter.delta().data[3] == -4);

      const Matrix x = random.matrix(5, in);
      const Matrix dy = random.matrix(5, out);
      Matrix delta(static_cast<int>(basis->rows()), static_cast<int>(basis->cols()));
      delta.data[1] = 1;
      delta.data[3] = -4;
      const Matrix whole =
          oracle::sum(w, oracle::product(oracle::product(v.matrix, delta), oracle::transposed(u.matrix)));
      Matrix y_expected = oracle::product(x, oracle::transposed(whole));
      for (int i = 0; i < 5; ++i)
        for (int j = 0; j < out; ++j)
          y_expected(i, j) += b(0, j);
      const Matrix dx_expected = oracle::product(dy, whole);
      const Matrix core_expected = oracle::product(
          oracle::product(oracle::transposed(v.matrix), oracle::product(oracle::transposed(dy), x)),
          u.matrix);
      const Matrix stood = random.matrix(5, in);
      const auto check = [&](InputGradient mode) {
        Matrix y(5, out);
        Matrix dx = stood;
        std::vector<double> db(out);
        Matrix keep(5, static_cast<int>(adapter.kept_cols()));
        const auto saved = adapter.forward(ctx, view(x), view(y), view(keep));
        adapter.backward(ctx, view(dy), saved, view(dx), db.data(), mode);
        CHECK(difference(y, y_expected) < 1e-12);
        CHECK(difference(dx, mode == InputGradient::add ? oracle::sum(stood, dx_expected) : dx_expected) <
              1e-12);
        CHECK(difference(matrix_of(adapter.gradient().own_core(ctx)), core_expected) < 1e-12);
        for (int j = 0; j < out; ++j) {
          double column = 0;
          for (int i = 0; i < 5; ++i)
            column += dy(i, j);
          CHECK(db[static_cast<std::size_t>(j)] == doctest::Approx(column));
        }
        if (!adapter.merged()) CHECK(difference(matrix_of(adapter.core(ctx)), core_expected) < 1e-12);
        adapter.clear();
      };
      check(InputGradient::overwrite);
      check(InputGradient::add);

      adapter.merge(ctx, view(weight), layout);
      CHECK(adapter.merged());
      CHECK(difference(weight, layout == WeightLayout::out_in ? whole : oracle::transposed(whole)) < 1e-12);
      check(InputGradient::overwrite);
      check(InputGradient::add);
      CHECK(message_of([&] { adapter.merge(ctx, view(weight), layout); }) ==
            "merge: the adapter is merged already");
      const char* apart = ": the adapter is merged into the weight; unmerge it first";
      CHECK(message_of([&] { adapter.apply(ctx, d); }) == std::string("apply") + apart);
      CHECK(message_of([&] { adapter.set_delta(ctx, d); }) == std::string("set_delta") + apart);
      CHECK(message_of([&] { (void)adapter.delta(); }) == std::string("delta") + apart);
      CHECK(message_of([&] { (void)adapter.core(ctx); }) == std::string("core") + apart);
      adapter.unmerge(ctx, view(weight), layout);
      CHECK(difference(weight, layout == WeightLayout::out_in ? w : oracle::transposed(w)) < 1e-12);
      CHECK(message_of([&] { adapter.unmerge(ctx, view(weight), layout); }) ==
            "unmerge: the adapter is not merged");

      const auto exported = adapter.export_delta(ctx);
      CHECK(exported.count() == 2);
      CHECK(exported.values()[1] == -4.0);
      // The same delta over a weight that lives elsewhere adds its term alone.
      CoreAdapter<double, Backend> elsewhere(ctx, basis);
      elsewhere.set_delta(ctx, exported);
      Matrix y = oracle::product(x, oracle::transposed(w));
      for (int i = 0; i < 5; ++i)
        for (int j = 0; j < out; ++j)
          y(i, j) += b(0, j);
      const auto saved = elsewhere.forward(ctx, view(x), view(y));
      CHECK(difference(y, y_expected) < 1e-12);
      Matrix dx = oracle::product(dy, w);
      elsewhere.backward(ctx, view(dy), saved, view(dx), nullptr);
      CHECK(difference(dx, dx_expected) < 1e-12);
      CHECK(difference(matrix_of(elsewhere.core(ctx)), core_expected) < 1e-12);
    }
  }
}

TEST_CASE(
    "the updates of a trained weight, summed up in an adapter, give the weight back when it is merged") {
  B::Context ctx;
  oracle::Random random(41);
  Matrix weight = random.matrix(6, 4);
  Matrix second = weight;
  const Matrix u = random.orthonormal(4, 4);
  const auto basis = TuckerBasis<double, B>::from_sides(BasisSide<double, B>::identity(6),
                                                        BasisSide<double, B>::from_factor(ctx, view(u)));
  Layer layer(ctx, view(weight), nullptr);
  layer.set_basis(ctx, basis);
  CoreAdapter<double, B> sum(ctx, basis);
  SparseGradient<double, B> d(ctx, 6, 4, 5);
  for (int step = 0; step < 4; ++step) {
    const Matrix dw = random.matrix(6, 4);
    layer.add_gradient(ctx, view(dw));
    layer.select(ctx, TopK{5}, d);
    layer.apply(ctx, d);
    sum.apply(ctx, d);
    layer.clear();
  }
  CHECK(difference(weight, second) > 0.1);
  sum.merge(ctx, view(second));
  CHECK(difference(second, weight) < 1e-13);
}

TEST_CASE("a delta is set without touching W, and forward uses it; one with NaN cannot be merged") {
  Model model;
  const Weights before = model.weights;
  CoreAdapter<double, B> adapter(model.ctx, MatrixView<const double>(model.weights[0].data(), 8, 6), nullptr,
                                 TuckerBasis<double, B>::identity(8, 6));
  SparseGradient<double, B> delta(model.ctx, 8, 6, 2);
  delta.assign(model.ctx, std::vector<stored_index_t>{1, 46}, std::vector<double>{2, -3});
  adapter.set_delta(model.ctx, delta);
  adapter.set_delta(model.ctx, delta);  // in place of the last
  const Matrix x = model.random.matrix(2, 6);
  Matrix y(2, 8);
  adapter.forward(model.ctx, view(x), view(y));
  Matrix w(8, 6);
  w.data = before[0];
  w.data[1] += 2;
  w.data[46] -= 3;
  CHECK(difference(y, oracle::product(x, oracle::transposed(w))) < 1e-14);
  CHECK(model.weights == before);
  CHECK(adapter.export_delta(model.ctx).count() == 2);
  const SparseGradient<double, B> none(model.ctx, 8, 6, 0);
  adapter.set_delta(model.ctx, none);
  CHECK(adapter.export_delta(model.ctx).count() == 0);

  delta.values()[1] = std::numeric_limits<double>::quiet_NaN();
  adapter.set_delta(model.ctx, delta);
  CHECK(message_of([&] { adapter.merge(model.ctx, MatrixView<double>(model.weights[0].data(), 8, 6)); }) ==
        "merge: the delta holds NaN or Inf at row 7, column 4; expected finite numbers");
  CHECK_FALSE(adapter.merged());
  CHECK(model.weights == before);
  adapter.set_delta(model.ctx, none);
  const SparseGradient<double, B> other(model.ctx, 6, 8, 0);
  CHECK(message_of([&] { adapter.set_delta(model.ctx, other); }) ==
        "delta is 6x8, expected 8x6 (rows x cols of the core)");
  CHECK(message_of([&] { adapter.apply(model.ctx, other); }) ==
        "update D is 6x8, expected 8x6 (rows x cols of the core)");
  CHECK(message_of([&] { adapter.apply(model.ctx, none, 2); }) ==
        "decay is 2, expected 0 <= learning rate * weight decay <= 1");
  CHECK_THROWS_AS(adapter.merge(model.ctx, MatrixView<double>(model.weights[0].data(), 6, 8)), ShapeError);
  CHECK_FALSE(adapter.merged());
  CHECK(message_of([&] {
          CoreAdapter<double, B>(model.ctx, MatrixView<const double>(model.weights[0].data(), 8, 6), nullptr,
                                 TuckerBasis<double, B>::identity(6, 8));
        }) == "basis is 6x8, expected 8x6 (out x in of the weight)");
}

TEST_CASE("a delta belongs to its basis: another one is refused before anything is computed") {
  B::Context ctx;
  oracle::Random random(7);
  const Matrix w = random.matrix(8, 6);
  const auto basis =
      TuckerBasis<double, B>::from_recipes(ctx, 8, 6, SideRecipe::random(3), SideRecipe::random(2));
  CoreAdapter<double, B> adapter(ctx, view(w), nullptr, basis);
  const Matrix x = random.matrix(2, 6);
  const Matrix dy = random.matrix(2, 8);
  Matrix y(2, 8);
  const auto saved = adapter.forward(ctx, view(x), view(y));
  adapter.gradient().set_basis(ctx, nullptr);
  const Matrix before = y;
  const char* text = ": the gradient has another basis than the delta; make an adapter for each basis";
  CHECK(message_of([&] { adapter.forward(ctx, view(dy), view(y)); }) == std::string("forward") + text);
  CHECK(message_of([&] { adapter.backward(ctx, view(dy), saved, {}, nullptr); }) ==
        std::string("backward") + text);
  CHECK(message_of([&] { adapter.core(ctx); }) == std::string("core") + text);
  CHECK(y.data == before.data);
  CHECK(adapter.delta().rows == 3);
  adapter.gradient().set_basis(ctx, basis);
  adapter.backward(ctx, view(dy), saved, {}, nullptr);
  CHECK(adapter.core(ctx).size() == 6);
}

namespace {

/// Three adapters over a model's weights, trained by a group.
struct Adapters {
  explicit Adapters(index_t rank = 4) : group(keeping(7)) {
    for (std::size_t i = 0; i < 3; ++i) {
      const index_t out = model.layers[i]->out_extent();
      const index_t in = model.layers[i]->in_extent();
      adapters.push_back(std::make_unique<CoreAdapter<double, B>>(
          model.ctx, MatrixView<const double>(model.weights[i].data(), out, in), nullptr,
          TuckerBasis<double, B>::from_recipes(model.ctx, out, in, SideRecipe::random(rank),
                                               SideRecipe::identity())));
      group.add_weight(model.ctx, adapters[i]->delta(), i == 2 ? "down" : "up");
    }
  }
  void backward() {
    for (std::size_t i = 0; i < 3; ++i) {
      const Matrix x = model.random.matrix(3, static_cast<int>(model.layers[i]->in_extent()));
      const Matrix dy = model.random.matrix(3, static_cast<int>(model.layers[i]->out_extent()));
      adapters[i]->backward(model.ctx, view(dy), {view(x), false}, {}, nullptr);
    }
  }
  GroupReport step() {
    for (std::size_t i = 0; i < 3; ++i)
      group.set_gradient(static_cast<index_t>(i), adapters[i]->core(model.ctx));
    const GroupReport report = group.step(model.ctx, {.learning_rate = 0.05, .weight_decay = 0.1});
    for (auto& adapter : adapters)
      adapter->clear();
    return report;
  }
  Weights deltas() const {
    Weights all;
    for (const auto& adapter : adapters) {
      const MatrixView<const double> d = std::as_const(*adapter).delta();
      all.emplace_back(d.data, d.data + d.size());
    }
    return all;
  }

  Model model;
  Group group;
  std::vector<std::unique_ptr<CoreAdapter<double, B>>> adapters;
};

}  // namespace

TEST_CASE("a group trains adapters as Adam steps by hand do, and no weight") {
  Adapters trained;
  Adapters alone;
  const Weights before = trained.model.weights;
  std::vector<SparseAdam<double, B>> adams;
  for (const auto& adapter : alone.adapters)
    adams.emplace_back(alone.model.ctx, adapter->basis()->rows(), adapter->basis()->cols());
  for (int step = 0; step < 4; ++step) {
    trained.backward();
    CHECK(trained.step().kept == 21);
    alone.backward();
    for (std::size_t i = 0; i < 3; ++i) {
      CoreAdapter<double, B>& adapter = *alone.adapters[i];
      SparseGradient<double, B> s(alone.model.ctx, adapter.basis()->rows(), adapter.basis()->cols(), 7);
      SparseGradient<double, B> d(alone.model.ctx, adapter.basis()->rows(), adapter.basis()->cols(), 7);
      TopK{7}(alone.model.ctx, MatrixView<const double>(adapter.core(alone.model.ctx)), s);
      adams[i].step(alone.model.ctx, s, {.learning_rate = 0.05}, d);
      adapter.apply(alone.model.ctx, d, 0.05 * 0.1);
      adapter.clear();
    }
    CHECK(trained.deltas() == alone.deltas());
  }
  CHECK(trained.model.weights == before);
}

TEST_CASE("a merged adapter among others: no delta moves") {
  Adapters run;
  run.backward();
  run.step();
  run.adapters[2]->merge(run.model.ctx, MatrixView<double>(run.model.weights[2].data(), 6, 8));
  const Weights before = run.deltas();
  run.backward();
  CHECK(contains(message_of([&] { run.step(); }), "merged"));
  CHECK(run.deltas() == before);
  CHECK(run.group.optimizer(0).steps() == 1);
  run.adapters[2]->unmerge(run.model.ctx, MatrixView<double>(run.model.weights[2].data(), 6, 8));
  run.step();
  CHECK(run.deltas() != before);
  CHECK(run.group.optimizer(2).steps() == 2);
}

TEST_CASE("a group of adapters that was restored goes on bit by bit") {
  Adapters first;
  Adapters second;
  for (int step = 0; step < 4; ++step) {
    first.backward();
    first.step();
  }
  io::SafetensorsWriter writer;
  io::put(first.model.ctx, writer, "group.", first.group);
  for (std::size_t i = 0; i < 3; ++i)
    io::put(first.model.ctx, writer, "delta." + std::to_string(i) + ".",
            first.adapters[i]->export_delta(first.model.ctx));
  const io::SafetensorsFile file(io::FileBytes::from(writer.bytes()), "f");
  io::get(second.model.ctx, file, "group.", second.group);
  for (std::size_t i = 0; i < 3; ++i)
    second.adapters[i]->set_delta(
        second.model.ctx,
        io::get_delta<double, B>(second.model.ctx, file, "delta." + std::to_string(i) + "."));
  second.model.random = first.model.random;
  CHECK(first.deltas() == second.deltas());
  for (int step = 0; step < 3; ++step) {
    for (Adapters* run : {&first, &second}) {
      run->backward();
      run->step();
    }
    CHECK(first.deltas() == second.deltas());
  }
  // Of another shape: refused.
  Adapters other(5);
  CHECK(contains(message_of([&] { io::get(other.model.ctx, file, "group.", other.group); }),
                 "weight 0 ('up'): the saved basis is 4x6, expected 5x6"));
}
