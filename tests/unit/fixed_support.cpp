// Gradients at a fixed support: FixedSupport reads a core, SampledGradient computes the entries alone.
#include <sparsegrad/extras/fixed_support.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/io/group_file.hpp>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;
using oracle::Matrix;

namespace {

using Gradient = SparseGradient<double, B>;
using Support = FixedSupport<double, B>;
using Sampled = FixedSupportLinear<double, B>;

template <class T>
struct Stored {
  std::vector<T> data;
  index_t rows, cols;
  explicit Stored(const Matrix& m) : data(m.data.begin(), m.data.end()), rows(m.rows), cols(m.cols) {}
  MatrixView<T> view() { return {data.data(), rows, cols}; }
};

Gradient support_of(B::Context& ctx, index_t rows, index_t cols, const std::vector<stored_index_t>& at) {
  Gradient support(ctx, rows, cols, static_cast<index_t>(at.size()));
  support.assign(ctx, at, std::vector<double>(at.size(), 1.0));
  return support;
}

/// The three layers of a model, of which only the entries of a support are computed.
struct SampledModel {
  explicit SampledModel(const std::vector<stored_index_t>& at) {
    for (std::size_t i = 0; i < 3; ++i) {
      const index_t out = model.layers[i]->out_extent();
      const index_t in = model.layers[i]->in_extent();
      layers.push_back(std::make_unique<Sampled>(model.ctx, model.layers[i]->trained_weight(), nullptr,
                                                 TuckerBasis<double, B>::identity(out, in),
                                                 support_of(model.ctx, out, in, at)));
    }
  }
  void add_to(Group& group) {
    for (std::size_t i = 0; i < 3; ++i)
      group.add(model.ctx, *layers[i], i == 2 ? "down" : "up");
  }
  Matrix add_gradient(std::size_t i) {
    const Matrix g = model.gradient(i);
    layers[i]->gradient().add(model.ctx, MatrixView<const double>(g.data.data(), g.rows, g.cols));
    return g;
  }

  Model model;
  std::vector<std::unique_ptr<Sampled>> layers;
};

}  // namespace

TEST_CASE_TEMPLATE("a fixed support gets the same numbers without a dense core", Backend, backend::Reference,
                   backend::Cpu, backend::CpuBlas) {
  typename Backend::Context ctx(2);
  oracle::Random random(23);
  const int out = 10;
  const int in = 8;
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    for (const bool every : {false, true}) {
      const Matrix w = random.matrix(out, in);
      const Matrix b = random.matrix(1, out);
      Stored<float> weight(layout == WeightLayout::out_in ? w : oracle::transposed(w));
      Stored<float> bias(b);
      const Matrix v = random.orthonormal(out, 7);
      const Matrix u = random.orthonormal(in, 5);
      Stored<float> v_stored(v);
      Stored<float> u_stored(u);
      const auto basis = TuckerBasis<float, Backend>::from_factors(ctx, v_stored.view(), u_stored.view());
      std::vector<stored_index_t> at{0, 3, 9, 17, 30, 34};
      if (every) {
        at.resize(35);
        for (stored_index_t e = 0; e < 35; ++e)
          at[static_cast<std::size_t>(e)] = e;
      }
      const auto k = static_cast<index_t>(at.size());
      SparseGradient<float, Backend> support(ctx, 7, 5, k);
      support.assign(ctx, at, std::vector<float>(at.size(), 1.0F));
      FixedSupportLinear<float, Backend> layer(ctx, TrainedWeight<float>(weight.view(), layout),
                                               bias.data.data(), basis, support);
      SparseGradLinear<float, Backend> dense(ctx, weight.view(), nullptr, {.layout = layout});
      dense.set_basis(ctx, basis);
      CHECK(layer.gradient().bytes() == (every ? 35 * 4 : 6 * (4 + 4)));
      SparseGradient<float, Backend> s(ctx, 7, 5, k);
      SparseGradient<float, Backend> t(ctx, 7, 5, k);
      Matrix dw(out, in);
      for (int micro = 0; micro < 2; ++micro) {
        const Matrix x = random.matrix(9, in);
        const Matrix dy = random.matrix(9, out);
        Stored<float> x_stored(x);
        Stored<float> dy_stored(dy);
        Stored<float> y(Matrix(9, out));
        layer.forward(ctx, x_stored.view(), y.view());
        const Matrix y_expected = oracle::product(x, oracle::transposed(w));
        for (int i = 0; i < 9; ++i)
          for (int j = 0; j < out; ++j)
            CHECK(std::abs(y.view()(i, j) - (y_expected(i, j) + b(0, j))) < 1e-5);
        Stored<float> dx(Matrix(9, in));
        std::vector<float> db(out);
        layer.backward(ctx, dy_stored.view(), x_stored.view(), dx.view(), db.data());
        layer.gradient();
        const Matrix dx_expected = oracle::product(dy, w);
        for (int i = 0; i < 9; ++i)
          for (int j = 0; j < in; ++j)
            CHECK(std::abs(dx.view()(i, j) - dx_expected(i, j)) < 1e-5);
        dense.backward(ctx, dy_stored.view(), SavedInput<float>{x_stored.view(), false}, {}, nullptr);
        dw = oracle::sum(dw, oracle::product(oracle::transposed(dy), x));
      }
      const Matrix own = random.matrix(out, in);
      Stored<float> own_stored(own);
      layer.gradient().add(ctx, own_stored.view());
      dense.add_gradient(ctx, own_stored.view());
      dw = oracle::sum(dw, own);
      layer.gradient().select(ctx, s);
      dense.select(ctx, FixedSupport<float, Backend>(ctx, support), t);
      const Matrix core = oracle::product(oracle::product(oracle::transposed(v), dw), u);
      REQUIRE(s.count() == k);
      REQUIRE(t.count() == k);
      CHECK(s.dense() == every);
      for (index_t e = 0; e < k; ++e) {
        const auto position = static_cast<std::size_t>(at[static_cast<std::size_t>(e)]);
        if (!every) CHECK(s.indices()[e] == at[static_cast<std::size_t>(e)]);
        CHECK(std::abs(s.values()[e] - core.data[position]) < 1e-4);
        CHECK(std::abs(t.values()[e] - core.data[position]) < 1e-4);
      }
      CHECK(message_of([&] { layer.gradient().core(ctx); }) ==
            "core: the gradient is that at a fixed support alone; it forms none; use select");
      CHECK(message_of([&] { layer.gradient().set_basis(ctx, nullptr); }) ==
            "set_basis: a gradient is being accumulated; call clear first");
      layer.gradient().clear();
      CHECK(message_of([&] { layer.gradient().set_basis(ctx, nullptr); }) ==
            "set_basis: the gradient is that at a fixed support alone; its support belongs to another basis");
      layer.gradient().select(ctx, s);
      for (index_t e = 0; e < k; ++e)
        CHECK(s.values()[e] == 0);
    }
  }
}

TEST_CASE("FixedSupport wants a contiguous core of its own basis, and room in the sparse gradient") {
  B::Context ctx;
  std::vector<double> core(20);
  for (std::size_t e = 0; e < core.size(); ++e)
    core[e] = static_cast<double>(e);
  Gradient s(ctx, 4, 3, 2);
  Support fixed(ctx, support_of(ctx, 4, 3, {2, 7}));
  CHECK(message_of([&] { fixed(ctx, MatrixView<const double>(core.data(), 4, 3, 5), s); }) ==
        "the core's row stride is 5, expected a contiguous core of 3 columns");
  CHECK(fixed(ctx, MatrixView<const double>(core.data(), 4, 3), s).kept == 2);
  CHECK(s.values()[0] == 2);
  CHECK(s.values()[1] == 7);
  Gradient small(ctx, 4, 3, 1);
  CHECK(message_of([&] { fixed(ctx, MatrixView<const double>(core.data(), 4, 3), small); }) ==
        "count is 2, expected 0 <= count <= capacity = 1");
  Gradient other(ctx, 3, 4, 2);
  CHECK(message_of([&] { fixed(ctx, MatrixView<const double>(core.data(), 3, 4), other); }) ==
        "support is 4x3, expected 3x4 (rows x cols of the core)");
  // NaN and Inf: as with any selector, by the policy.
  core[7] = std::numeric_limits<double>::quiet_NaN();
  const MatrixView<const double> bad(core.data(), 4, 3);
  CHECK(message_of([&] { select_entries<double, B>(ctx, fixed, bad, s); }) ==
        "the core gradient of 4x3 holds NaN at row 2, column 1; expected finite numbers");
  CHECK(s.count() == 0);
  CHECK(select_entries<double, B>(ctx, fixed, bad, s, NonFinite::skip).skipped);
  CHECK(select_entries<double, B>(ctx, fixed, bad, s, NonFinite::propagate).kept == 2);
  // The first basis is the one that the support is for; the next is another.
  fixed.basis_changed(ctx, 4, 3);
  core[7] = 7;
  CHECK(fixed(ctx, bad, s).kept == 2);
  fixed.basis_changed(ctx, 4, 3);
  CHECK(contains(message_of([&] { fixed(ctx, bad, s); }), "another basis"));
  fixed.restore(ctx, {{1, 4, 11}, {}});
  Gradient three(ctx, 4, 3, 3);
  CHECK(fixed(ctx, bad, three).kept == 3);
  CHECK(three.values()[2] == 11);
  // The caller's support is copied: what becomes of it is of no account.
  Gradient given = support_of(ctx, 4, 3, {2, 7});
  const Support copied(ctx, given);
  given.assign(ctx, std::vector<stored_index_t>{0, 1}, std::vector<double>(2));
  CHECK(copied(ctx, bad, s).kept == 2);
  CHECK(s.indices()[1] == 7);
}

TEST_CASE("fixed supports in a group: norm, step, and no collection where none can be made") {
  const std::vector<stored_index_t> at{2, 17, 40};
  for (const bool sampled : {false, true}) {
    CAPTURE(sampled);
    SampledModel own(at);
    Model& model = own.model;
    Group group(keeping(3));
    if (sampled) {
      own.add_to(group);
    } else {
      model.add_to(group);
      for (index_t i = 0; i < 3; ++i) {
        const CoreSource<double, B>& source = group.source(i);
        group.use_selector(
            model.ctx, i,
            Support(model.ctx, support_of(model.ctx, source.out_extent(), source.in_extent(), at)));
      }
    }
    const Weights before = model.weights;
    double at_support = 0;
    double all = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const Matrix g = sampled ? own.add_gradient(i) : model.add_gradient(i);
      for (std::size_t e = 0; e < g.data.size(); ++e) {
        const bool kept = e == 2 || e == 17 || e == 40;
        all += g.data[e] * g.data[e];
        at_support += kept ? g.data[e] * g.data[e] : 0;
      }
    }
    CHECK(group.squared_norm(model.ctx) == doctest::Approx(sampled ? at_support : all));
    CHECK(group.squared_norm(model.ctx) == doctest::Approx(sampled ? at_support : all));
    const GroupReport report = group.step(model.ctx, {.learning_rate = 0.1, .grad_scale = 0.1});
    CHECK(report.kept == 9);
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t e = 0; e < 48; ++e)
        CHECK((model.weights[i][e] != before[i][e]) == (e == 2 || e == 17 || e == 40));
    CHECK_FALSE(group.source(0).accumulating());
    if (sampled) {
      CHECK(contains(message_of([&] { group.collect(model.ctx, {}); }), "fixed support"));
      CHECK_FALSE(group.collecting());
      // A recipe that needs no gradients can be collected for, but the support has no place in the new basis.
      group.collect(model.ctx, recipe_of(SideRecipe::random(2), SideRecipe::random(2)));
      own.add_gradient(0);
      group.end_collecting_step(model.ctx);
      CHECK_FALSE(group.source(0).accumulating());
      CHECK(message_of([&] { group.refresh(model.ctx); }) ==
            "refresh: the gradient is that at a fixed support alone; its support belongs to another basis");
      CHECK(group.collecting());
      group.stop_collecting(model.ctx);
      CHECK(contains(message_of([&] { group.set_basis(model.ctx, 1, nullptr); }), "another basis"));
      own.add_gradient(0);
      CHECK(group.step(model.ctx, {}).kept == 3);
    } else {
      group.collect(model.ctx, {});
      model.add_gradients();
      group.end_collecting_step(model.ctx);
      CHECK_FALSE(model.layers[0]->accumulating());
      group.refresh(model.ctx);
      model.add_gradients();
      const Weights stood = model.weights;
      CHECK(contains(message_of([&] { group.step(model.ctx, {}); }), "another basis"));
      CHECK(model.weights == stood);
    }
  }
}

TEST_CASE("fixed supports in a group: both kinds train the same weights; NaN under each policy") {
  const std::vector<stored_index_t> at{2, 17, 40};
  SampledModel own(at);
  Model apart;
  Group sampling(keeping(3));
  Group group(keeping(3));
  own.add_to(sampling);
  apart.add_to(group);
  for (index_t i = 0; i < 3; ++i) {
    const CoreSource<double, B>& source = group.source(i);
    group.use_selector(
        apart.ctx, i, Support(apart.ctx, support_of(apart.ctx, source.out_extent(), source.in_extent(), at)));
  }
  for (int step = 0; step < 4; ++step) {
    for (std::size_t i = 0; i < 3; ++i) {
      if (step == 2 && i == 1) continue;  // a layer without a gradient
      own.add_gradient(i);
      apart.add_gradient(i);
    }
    CHECK(sampling.step(own.model.ctx, {.learning_rate = 0.1}).kept ==
          group.step(apart.ctx, {.learning_rate = 0.1}).kept);
  }
  CHECK(own.model.weights == apart.weights);

  for (const NonFinite policy : {NonFinite::raise, NonFinite::skip}) {
    GroupOptions options = keeping(3);
    options.non_finite = policy;
    SampledModel bad(at);
    Group refused(options);
    bad.add_to(refused);
    const Weights before = bad.model.weights;
    bad.add_gradient(0);
    Matrix g = bad.model.gradient(1);
    g.data[17] = std::numeric_limits<double>::infinity();
    bad.layers[1]->gradient().add(bad.model.ctx, MatrixView<const double>(g.data.data(), 8, 6));
    if (policy == NonFinite::raise) {
      CHECK(message_of([&] { refused.step(bad.model.ctx, {}); }) ==
            "layer 1 ('up'): the core gradient of 8x6 holds Inf at row 2, column 5; expected finite numbers");
    } else {
      CHECK(refused.step(bad.model.ctx, {}).skipped);
    }
    CHECK(bad.model.weights == before);
    CHECK(refused.optimizer(0).steps() == 0);
  }
}

TEST_CASE("the extents of basis, weight and support must fit") {
  B::Context ctx;
  std::vector<double> w(48);
  const auto basis = TuckerBasis<double, B>::identity(8, 6);
  CHECK(message_of([&] { SampledGradient<double, B>(ctx, basis, support_of(ctx, 6, 8, {1})); }) ==
        "support is 6x8, expected 8x6 (rows x cols of the core)");
  CHECK(message_of([&] {
          Sampled(ctx, TrainedWeight<double>(MatrixView<double>(w.data(), 6, 8), WeightLayout::out_in),
                  nullptr, basis, support_of(ctx, 8, 6, {1}));
        }) == "basis is 8x6, expected 6x8 (out x in of the weight)");
  SampledGradient<double, B> gradient(ctx, basis, support_of(ctx, 8, 6, {1}));
  const MatrixView<const double> two(w.data(), 2, 8);
  const MatrixView<const double> three(w.data(), 3, 6);
  CHECK(contains(message_of([&] { gradient.add_tokens(ctx, two, three); }), "dY is 2x8, expected 3x8"));
  CHECK(contains(message_of([&] { gradient.add(ctx, MatrixView<const double>(w.data(), 6, 8)); }),
                 "dW is 6x8, expected 8x6"));
  CHECK_FALSE(gradient.accumulating());
}
