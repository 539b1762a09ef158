#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/reference.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "doctest/doctest.h"
#include "support/layer_oracle.hpp"

using namespace sparsegrad;
using oracle::Matrix;

namespace {

template <class T, class B>
struct Typed {
  using Scalar = T;
  using Backend = B;
};

/// A matrix in the library's terms, with rows wider than its columns and the padding watched.
template <class T>
struct Padded {
  static constexpr T guard = T(-77);
  index_t rows, cols, stride;
  std::vector<T> data;

  Padded(index_t r, index_t c, index_t extra = 3)
      : rows(r), cols(c), stride(c + extra), data(static_cast<std::size_t>(r * (c + extra)), guard) {}
  explicit Padded(const Matrix& m, index_t extra = 3) : Padded(m.rows, m.cols, extra) {
    for (int i = 0; i < m.rows; ++i)
      for (int j = 0; j < m.cols; ++j)
        view()(i, j) = static_cast<T>(m(i, j));
  }
  MatrixView<T> view() { return MatrixView<T>(data.data(), rows, cols, stride); }
  Matrix matrix() {
    Matrix m(static_cast<int>(rows), static_cast<int>(cols));
    for (int i = 0; i < m.rows; ++i)
      for (int j = 0; j < m.cols; ++j)
        m(i, j) = static_cast<double>(view()(i, j));
    return m;
  }
  bool padding_untouched() const {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = cols; j < stride; ++j)
        if (data[static_cast<std::size_t>(i * stride + j)] != guard) return false;
    return true;
  }
};

template <class T>
Matrix matrix_of(MatrixView<T> view) {
  Matrix m(static_cast<int>(view.rows), static_cast<int>(view.cols));
  for (int i = 0; i < m.rows; ++i)
    for (int j = 0; j < m.cols; ++j)
      m(i, j) = static_cast<double>(view(i, j));
  return m;
}

template <class T, class B>
Matrix matrix_of(const SparseGradient<T, B>& s) {
  Matrix m(static_cast<int>(s.rows()), static_cast<int>(s.cols()));
  for (index_t e = 0; e < s.count(); ++e) {
    m.data[static_cast<std::size_t>(s.dense() ? e : s.indices()[e])] = static_cast<double>(s.values()[e]);
  }
  return m;
}

double largest_difference(const Matrix& a, const Matrix& b) {
  REQUIRE(a.rows == b.rows);
  REQUIRE(a.cols == b.cols);
  double worst = 0;
  for (std::size_t e = 0; e < a.data.size(); ++e)
    worst = std::max(worst, std::abs(a.data[e] - b.data[e]));
  return worst;
}

template <class T>
double tolerance() {
  return std::is_same_v<T, float> ? 2e-4 : 1e-11;
}

/// One side of a basis with its matrix, for the oracle.
template <class T, class B>
struct OracleSide {
  BasisSide<T, B> side;
  Matrix matrix;
};

template <class T, class B>
OracleSide<T, B> make_side(typename B::Context& ctx, const std::string& kind, int n, oracle::Random& random) {
  if (kind == "identity") {
    Matrix eye(n, n);
    for (int i = 0; i < n; ++i)
      eye(i, i) = 1;
    return {BasisSide<T, B>::identity(n), eye};
  }
  if (kind == "hadamard") {
    auto side = BasisSide<T, B>::hadamard(ctx, n, 5);
    Matrix eye(n, n);
    for (int i = 0; i < n; ++i)
      eye(i, i) = 1;
    Padded<T> in(eye);
    Padded<T> out(n, n);
    side.project_columns(ctx, in.view(), out.view());  // I U = U
    return {std::move(side), out.matrix()};
  }
  const int r = kind == "full" ? n : std::max(1, n / 3);
  const Matrix u = random.orthonormal(n, r);
  Padded<T> factor(u);
  return {BasisSide<T, B>::from_factor(ctx, factor.view()), u};
}

template <class T, class B>
void every_plan(index_t out, index_t in, WeightLayout layout, bool give_dw) {
  typename B::Context ctx(2);
  const bool swapped = layout == WeightLayout::in_out;
  const int n_out = static_cast<int>(out);
  const int n_in = static_cast<int>(in);
  const int tokens = 7;
  for (const std::string out_kind : {"identity", "full", "truncated", "hadamard"}) {
    for (const std::string in_kind : {"identity", "full", "truncated", "hadamard"}) {
      for (const SideOrder out_order : {SideOrder::multiply_first, SideOrder::project_first}) {
        for (const SideOrder in_order : {SideOrder::multiply_first, SideOrder::project_first}) {
          for (const double share : {0.1, 0.6, 1.0}) {
            oracle::Random random(17);
            auto v = make_side<T, B>(ctx, out_kind, n_out, random);
            auto u = make_side<T, B>(ctx, in_kind, n_in, random);
            const auto basis = TuckerBasis<T, B>::from_sides(std::move(v.side), std::move(u.side));
            Matrix w = random.matrix(n_out, n_in);
            Matrix b = random.matrix(1, n_out);
            Padded<T> weight(swapped ? oracle::transposed(w) : w);
            std::vector<T> bias(static_cast<std::size_t>(n_out));
            for (int j = 0; j < n_out; ++j)
              bias[static_cast<std::size_t>(j)] = static_cast<T>(b(0, j));
            LinearOptions options;
            options.layout = layout;
            options.plan = Plan{out_order, in_order};
            SparseGradLinear<T, B> layer(ctx, weight.view(), bias.data(), options);
            layer.set_basis(ctx, basis);
            layer.reserve(ctx, tokens);

            Matrix dw(n_out, n_in);
            std::vector<T> db(static_cast<std::size_t>(n_out), T(0));
            Matrix db_expected(1, n_out);
            std::vector<Padded<T>> inputs;
            std::vector<Padded<T>> kept;
            std::vector<SavedInput<T>> saved;
            for (int micro = 0; micro < 3; ++micro) {  // all forwards before the first backward
              inputs.emplace_back(random.matrix(tokens + micro, n_in));
              kept.emplace_back(tokens + micro, layer.kept_cols());
            }
            for (int micro = 0; micro < 3; ++micro) {
              const auto m = static_cast<std::size_t>(micro);
              Padded<T> y(tokens + micro, n_out);
              saved.push_back(layer.forward(ctx, inputs[m].view(), y.view(), kept[m].view()));
              Matrix expected = oracle::product(inputs[m].matrix(), oracle::transposed(w));
              for (int i = 0; i < expected.rows; ++i)
                for (int j = 0; j < n_out; ++j)
                  expected(i, j) += b(0, j);
              CHECK(largest_difference(y.matrix(), expected) < tolerance<T>());
              CHECK(y.padding_untouched());
              CHECK(kept[m].padding_untouched());
            }
            for (int micro = 2; micro >= 0; --micro) {
              const auto m = static_cast<std::size_t>(micro);
              const Matrix dy = random.matrix(tokens + micro, n_out);
              Padded<T> dy_padded(dy);
              Padded<T> dx(tokens + micro, n_in);
              const Matrix micro_dw = oracle::product(oracle::transposed(dy), inputs[m].matrix());
              if (give_dw) {
                Padded<T> own(micro_dw);
                layer.add_gradient(ctx, own.view());
              } else {
                layer.backward(ctx, dy_padded.view(), saved[m], dx.view(), db.data());
                CHECK(largest_difference(dx.matrix(), oracle::product(dy, w)) < tolerance<T>());
                CHECK(dx.padding_untouched());
              }
              dw = oracle::sum(dw, micro_dw);
              for (int i = 0; i < dy.rows; ++i)
                for (int j = 0; j < n_out; ++j)
                  db_expected(0, j) += dy(i, j);
            }
            for (int j = 0; j < n_out && !give_dw; ++j) {
              CHECK(std::abs(static_cast<double>(db[static_cast<std::size_t>(j)]) - db_expected(0, j)) <
                    tolerance<T>());
            }
            const Matrix core = oracle::product(oracle::product(oracle::transposed(v.matrix), dw), u.matrix);
            CHECK(largest_difference(matrix_of(layer.core(ctx)), core) < tolerance<T>());
            const auto k = static_cast<index_t>(std::ceil(share * core.rows * core.cols));
            SparseGradient<T, B> s(ctx, core.rows, core.cols, k);
            const SelectReport report = layer.select(ctx, TopK{k}, s);
            CHECK(report.kept == k);
            const Matrix selected = oracle::keep_top(matrix_of(layer.core(ctx)), static_cast<int>(k));
            CHECK(largest_difference(matrix_of(s), selected) == 0);

            for (index_t e = 0; e < s.count(); ++e)
              s.values()[e] *= T(-0.1);
            layer.apply(ctx, s, 0.05);
            Matrix expected_w = w;
            for (double& x : expected_w.data)
              x *= 0.95;
            const Matrix update =
                oracle::product(oracle::product(v.matrix, selected), oracle::transposed(u.matrix));
            expected_w = oracle::sum(expected_w, update, -0.1);
            INFO("out ", out_kind, ", in ", in_kind, ", ", to_string(layer.plan()), ", share ", share);
            CHECK(largest_difference(weight.matrix(), swapped ? oracle::transposed(expected_w) : expected_w) <
                  tolerance<T>());
            CHECK(weight.padding_untouched());
            layer.clear(ctx);
          }
        }
      }
    }
  }
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

// Groups refer to a layer's parts, and a shared gradient memory's turn ends with it: it stays where it is.
static_assert(!std::is_move_constructible_v<SparseGradLinear<float, backend::Reference>> &&
              !std::is_move_assignable_v<SparseGradLinear<float, backend::Reference>> &&
              !std::is_copy_constructible_v<SparseGradLinear<float, backend::Reference>> &&
              !std::is_copy_assignable_v<SparseGradLinear<float, backend::Reference>>);

TEST_CASE_TEMPLATE("every plan, side and layout gives the oracle's step", Pair,
                   Typed<float, backend::Reference>, Typed<double, backend::Cpu>,
                   Typed<float, backend::CpuBlas>, Typed<double, backend::CpuBlas>) {
  using T = typename Pair::Scalar;
  using B = typename Pair::Backend;
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    every_plan<T, B>(12, 6, layout, false);  // up
    every_plan<T, B>(6, 12, layout, false);  // down
    every_plan<T, B>(5, 7, layout, true);    // an engine's own dW
  }
}

TEST_CASE_TEMPLATE("backward adds to dX where it is asked to, and overwrites it otherwise", Pair,
                   Typed<float, backend::Reference>, Typed<double, backend::Cpu>,
                   Typed<float, backend::CpuBlas>) {
  using T = typename Pair::Scalar;
  using B = typename Pair::Backend;
  typename B::Context ctx(2);
  oracle::Random random(19);
  const int out = 6;
  const int in = 5;
  const int tokens = 4;
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    const Matrix w = random.matrix(out, in);
    Padded<T> weight(layout == WeightLayout::out_in ? w : oracle::transposed(w));
    LinearOptions options;
    options.layout = layout;
    SparseGradLinear<T, B> layer(ctx, weight.view(), nullptr, options);
    const Matrix x = random.matrix(tokens, in);
    const Matrix dy = random.matrix(tokens, out);
    const Matrix stood = random.matrix(tokens, in, 10);
    Padded<T> x_view(x);
    Padded<T> dy_view(dy);
    const Matrix dw = oracle::product(oracle::transposed(dy), x);
    const Matrix by_w = oracle::product(dy, w);
    for (const InputGradient mode : {InputGradient::overwrite, InputGradient::add}) {
      Padded<T> dx(stood);
      std::vector<T> db(static_cast<std::size_t>(out), T(2));
      layer.backward(ctx, dy_view.view(), SavedInput<T>{x_view.view(), false}, dx.view(), db.data(), mode);
      const Matrix expected = mode == InputGradient::add ? oracle::sum(stood, by_w) : by_w;
      CHECK(largest_difference(dx.matrix(), expected) < 10 * tolerance<T>());
      CHECK(dx.padding_untouched());
      CHECK(largest_difference(matrix_of(layer.core(ctx)), dw) < tolerance<T>());
      for (int j = 0; j < out; ++j) {
        double column = 2;
        for (int i = 0; i < tokens; ++i)
          column += dy(i, j);
        CHECK(std::abs(static_cast<double>(db[static_cast<std::size_t>(j)]) - column) < tolerance<T>());
      }
      layer.clear(ctx);
    }
    // No tokens: what stood in dX stays, or is nothing to write.
    Padded<T> none(0, in);
    Padded<T> none_dy(0, out);
    layer.backward(ctx, none_dy.view(), SavedInput<T>{none.view(), false}, none.view(), nullptr,
                   InputGradient::add);
    CHECK(largest_difference(matrix_of(layer.core(ctx)), Matrix(out, in)) == 0);
    layer.clear(ctx);
  }
}

TEST_CASE("gradients equal finite differences in double") {
  using B = backend::Reference;
  B::Context ctx(1);
  oracle::Random random(3);
  const int out = 5;
  const int in = 4;
  const int tokens = 3;
  Padded<double> weight(random.matrix(out, in));
  std::vector<double> bias(static_cast<std::size_t>(out));
  for (double& x : bias)
    x = random.next();
  Padded<double> v(random.orthonormal(out, 3));
  Padded<double> u(random.orthonormal(in, 4));
  const auto basis = TuckerBasis<double, B>::from_factors(ctx, v.view(), u.view());
  SparseGradLinear<double, B> layer(ctx, weight.view(), bias.data());
  layer.set_basis(ctx, basis);
  Padded<double> x(random.matrix(tokens, in));
  const Matrix c = random.matrix(tokens, out);

  // L = sum_ij c_ij sin(y_ij)
  const auto loss = [&] {
    Padded<double> y(tokens, out);
    layer.forward(ctx, x.view(), y.view());
    double sum = 0;
    for (int i = 0; i < tokens; ++i)
      for (int j = 0; j < out; ++j)
        sum += c(i, j) * std::sin(y.view()(i, j));
    return sum;
  };
  Padded<double> y(tokens, out);
  const auto saved = layer.forward(ctx, x.view(), y.view());
  Padded<double> dy(tokens, out);
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < out; ++j)
      dy.view()(i, j) = c(i, j) * std::cos(y.view()(i, j));
  Padded<double> dx(tokens, in);
  std::vector<double> db(static_cast<std::size_t>(out), 0.0);
  layer.backward(ctx, dy.view(), saved, dx.view(), db.data());
  const Matrix core = matrix_of(layer.core(ctx));

  const double h = 1e-6;
  const auto difference = [&](double& parameter) {
    const double before = parameter;
    parameter = before + h;
    const double above = loss();
    parameter = before - h;
    const double below = loss();
    parameter = before;
    return (above - below) / (2 * h);
  };
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < in; ++j)
      CHECK(std::abs(dx.view()(i, j) - difference(x.view()(i, j))) < 1e-7);
  for (int j = 0; j < out; ++j) {
    CHECK(std::abs(db[static_cast<std::size_t>(j)] - difference(bias[static_cast<std::size_t>(j)])) < 1e-7);
  }
  // A core entry is the slope along v_a u_b^T.
  const Matrix w = weight.matrix();
  for (int a = 0; a < core.rows; ++a) {
    for (int b = 0; b < core.cols; ++b) {
      const auto moved = [&](double step) {
        for (int i = 0; i < out; ++i)
          for (int j = 0; j < in; ++j)
            weight.view()(i, j) = w(i, j) + step * v.view()(i, a) * u.view()(j, b);
        return loss();
      };
      CHECK(std::abs(core(a, b) - (moved(h) - moved(-h)) / (2 * h)) < 1e-7);
    }
  }
}

TEST_CASE_TEMPLATE("a full basis trains as the layer in the rotated space does", B, backend::Reference,
                   backend::Cpu, backend::CpuBlas) {
  // The reference's order: everything lives in the basis, W~ = V^T W U, and only x and y cross its border.
  typename B::Context ctx(2);
  oracle::Random random(11);
  const int out = 9;
  const int in = 6;
  const int tokens = 8;
  const index_t k = 7;
  const Matrix v = random.orthonormal(out, out);
  const Matrix u = random.orthonormal(in, in);
  Padded<double> weight(random.matrix(out, in));
  Matrix rotated = oracle::product(oracle::product(oracle::transposed(v), weight.matrix()), u);
  std::vector<double> bias(static_cast<std::size_t>(out), 0.1);
  std::vector<double> rotated_bias = bias;

  Padded<double> v_view(v);
  Padded<double> u_view(u);
  SparseGradLinear<double, B> layer(ctx, weight.view(), bias.data());
  layer.set_basis(ctx, TuckerBasis<double, B>::from_factors(ctx, v_view.view(), u_view.view()));
  SparseAdam<double, B> adam(ctx, out, in, {});
  SparseGradient<double, B> s(ctx, out, in, k);
  SparseGradient<double, B> d(ctx, out, in, k);
  // Dense lazy moments of the rotated layer, as torch.optim.SparseAdam keeps them.
  Matrix m(out, in);
  Matrix m2(out, in);

  for (int step = 1; step <= 20; ++step) {
    const Matrix x = random.matrix(tokens, in);
    const Matrix target = random.matrix(tokens, out);
    // Ours.
    Padded<double> x_view(x);
    Padded<double> y(tokens, out);
    const auto saved = layer.forward(ctx, x_view.view(), y.view());
    const Matrix dy = oracle::sum(y.matrix(), target, -1);
    Padded<double> dy_view(dy);
    Padded<double> dx(tokens, in);
    std::vector<double> db(static_cast<std::size_t>(out), 0.0);
    layer.backward(ctx, dy_view.view(), saved, dx.view(), db.data());
    // The rotated layer: Y = (X U) W~^T V^T + b.
    const Matrix xu = oracle::product(x, u);
    Matrix y_rotated =
        oracle::product(oracle::product(xu, oracle::transposed(rotated)), oracle::transposed(v));
    for (int i = 0; i < tokens; ++i)
      for (int j = 0; j < out; ++j)
        y_rotated(i, j) += rotated_bias[static_cast<std::size_t>(j)];
    CHECK(largest_difference(y.matrix(), y_rotated) < 1e-10);
    const Matrix dyv = oracle::product(oracle::sum(y_rotated, target, -1), v);
    const Matrix dx_rotated = oracle::product(oracle::product(dyv, rotated), oracle::transposed(u));
    CHECK(largest_difference(dx.matrix(), dx_rotated) < 1e-10);
    const Matrix g = oracle::product(oracle::transposed(dyv), xu);
    const Matrix kept = oracle::keep_top(g, static_cast<int>(k));
    for (int i = 0; i < out; ++i) {
      double column = 0;
      for (int t = 0; t < tokens; ++t)
        column += y_rotated(t, i) - target(t, i);
      CHECK(std::abs(db[static_cast<std::size_t>(i)] - column) < 1e-10);
    }
    // Steps.
    const double lr = 0.01;
    layer.select(ctx, TopK{k}, s);
    adam.step(ctx, s, {.learning_rate = lr}, d);
    layer.apply(ctx, d);
    layer.clear(ctx);
    for (std::size_t e = 0; e < kept.data.size(); ++e) {
      if (kept.data[e] == 0) continue;
      m.data[e] += 0.1 * (kept.data[e] - m.data[e]);
      m2.data[e] += 0.001 * (kept.data[e] * kept.data[e] - m2.data[e]);
      const double size = lr * std::sqrt(1 - std::pow(0.999, step)) / (1 - std::pow(0.9, step));
      rotated.data[e] -= size * m.data[e] / (std::sqrt(m2.data[e]) + 1e-8);
    }
    for (int j = 0; j < out; ++j) {
      bias[static_cast<std::size_t>(j)] -= lr * db[static_cast<std::size_t>(j)];
      rotated_bias[static_cast<std::size_t>(j)] -= lr * db[static_cast<std::size_t>(j)];
    }
    const Matrix back = oracle::product(oracle::product(v, rotated), oracle::transposed(u));
    CHECK(largest_difference(weight.matrix(), back) < 1e-10);
  }
}

TEST_CASE("k = all under dense_core is Adam in the core; identity sides are plain top-k") {
  using B = backend::Cpu;
  B::Context ctx(1);
  oracle::Random random(5);
  const int out = 6;
  const int in = 5;
  Padded<double> weight(random.matrix(out, in));
  Matrix expected = weight.matrix();
  Padded<double> v(random.orthonormal(out, out));
  Padded<double> u(random.orthonormal(in, 3));
  SparseGradLinear<double, B> layer(ctx, weight.view(), nullptr);
  layer.set_basis(ctx, TuckerBasis<double, B>::from_factors(ctx, v.view(), u.view()));
  SparseAdamOptions options;
  options.semantics = AdamSemantics::dense_core;
  SparseAdam<double, B> adam(ctx, out, 3, options);
  SparseGradient<double, B> s(ctx, out, 3, out * 3);
  SparseGradient<double, B> d(ctx, out, 3, out * 3);
  Matrix m(out, 3);
  Matrix m2(out, 3);
  for (int step = 1; step <= 15; ++step) {
    Padded<double> dw(random.matrix(out, in));
    layer.add_gradient(ctx, dw.view());
    layer.select(ctx, TopK{1000}, s);
    CHECK(s.dense());
    adam.step(ctx, s, {.learning_rate = 0.01}, d);
    layer.apply(ctx, d);
    layer.clear(ctx);
    const Matrix g =
        oracle::product(oracle::product(oracle::transposed(v.matrix()), dw.matrix()), u.matrix());
    Matrix delta(out, 3);
    for (std::size_t e = 0; e < g.data.size(); ++e) {
      m.data[e] = 0.9 * m.data[e] + 0.1 * g.data[e];
      m2.data[e] = 0.999 * m2.data[e] + 0.001 * g.data[e] * g.data[e];
      const double first = m.data[e] / (1 - std::pow(0.9, step));
      const double second = m2.data[e] / (1 - std::pow(0.999, step));
      delta.data[e] = -0.01 * first / (std::sqrt(second) + 1e-8);
    }
    expected = oracle::sum(
        expected, oracle::product(oracle::product(v.matrix(), delta), oracle::transposed(u.matrix())));
    CHECK(largest_difference(weight.matrix(), expected) < 1e-12);
  }

  SparseGradLinear<double, B> plain(ctx, weight.view(), nullptr);
  Padded<double> dw(random.matrix(out, in));
  plain.add_gradient(ctx, dw.view());
  SparseGradient<double, B> top(ctx, out, in, 4);
  plain.select(ctx, TopK{4}, top);
  CHECK(largest_difference(matrix_of(top), oracle::keep_top(dw.matrix(), 4)) == 0);
}

TEST_CASE("the core of a layer that had no backward is 0, its memory taken then") {
  using B = backend::Reference;
  B::Context ctx;
  Matrix w(4, 3);
  Padded<double> weight(w);
  SparseGradLinear<double, B> layer(ctx, weight.view(), nullptr);
  const MatrixView<const double> core = layer.core(ctx);
  REQUIRE(core.rows == 4);
  REQUIRE(core.cols == 3);
  for (index_t i = 0; i < core.size(); ++i)
    CHECK(core.data[i] == 0);
  CHECK(layer.core(ctx).data == core.data);
}

TEST_CASE("a callable selects") {
  using B = backend::Cpu;
  B::Context ctx(1);
  oracle::Random random(2);
  Padded<float> weight(random.matrix(3, 4), 0);
  SparseGradLinear<float> layer(ctx, weight.view(), nullptr);
  Padded<float> dw(random.matrix(3, 4));
  layer.add_gradient(ctx, dw.view());
  SparseGradient<float> s(ctx, 3, 4, 3);
  layer.select(
      ctx,
      [](B::Context&, MatrixView<const float> core, SparseGradient<float>& kept) {  // the diagonal
        kept.set_count(3);
        for (stored_index_t i = 0; i < 3; ++i) {
          kept.indices()[i] = i * 4 + i;
          kept.values()[i] = core(i, i);
        }
      },
      s);
  CHECK(s.values()[2] == dw.view()(2, 2));
}

TEST_CASE("wrong calls are refused with what was expected and found, and change nothing") {
  using B = backend::Cpu;
  B::Context ctx(1);
  oracle::Random random(1);
  Padded<float> weight(random.matrix(3, 4), 0);
  const std::vector<float> before = weight.data;
  SparseGradLinear<float> layer(ctx, weight.view(), nullptr);
  Padded<float> x(random.matrix(2, 4));
  Padded<float> y(2, 3);
  Padded<float> narrow(2, 2);
  CHECK(message_of([&] { layer.forward(ctx, narrow.view(), y.view()); }) ==
        "X is 2x2, expected 2x4 (tokens x in)");
  CHECK(message_of([&] { layer.forward(ctx, x.view(), narrow.view()); }) ==
        "Y is 2x2, expected 2x3 (tokens x out)");
  const auto saved = layer.forward(ctx, x.view(), y.view());
  CHECK(message_of([&] { layer.backward(ctx, narrow.view(), saved, {}, nullptr); }) ==
        "dY is 2x2, expected 2x3 (tokens x out)");
  CHECK(message_of([&] { layer.backward(ctx, y.view(), saved, narrow.view(), nullptr); }) ==
        "dX is 2x2, expected 2x4 (tokens x in)");
  CHECK(message_of([&] { layer.add_gradient(ctx, x.view()); }) == "dW is 2x4, expected 3x4 (out x in)");
  CHECK(!layer.accumulating());
  layer.backward(ctx, y.view(), saved, {}, nullptr);
  CHECK(message_of([&] { layer.set_basis(ctx, nullptr); }) ==
        "set_basis: a gradient is being accumulated; call clear first");
  layer.core(ctx);
  CHECK(message_of([&] { layer.backward(ctx, y.view(), saved, {}, nullptr); }) ==
        "backward: the core of this step is finished; call clear before the next backward");
  SparseGradient<float> wrong(ctx, 2, 2, 1);
  CHECK(message_of([&] { layer.select(ctx, TopK{1}, wrong); }) ==
        "sparse gradient is 2x2, expected 3x4 (rows x cols of the core)");
  CHECK(message_of([&] { layer.apply(ctx, wrong); }) ==
        "update D is 2x2, expected 3x4 (rows x cols of the core)");
  SparseGradient<float> s(ctx, 3, 4, 2);
  CHECK(message_of([&] { layer.select(ctx, TopK{5}, s); }) ==
        "count is 5, expected 0 <= count <= capacity = 2");
  CHECK(message_of([&] { layer.select(ctx, TopK{-1}, s); }) == "k is -1, expected k >= 0");
  CHECK(message_of([&] { layer.apply(ctx, s, 2); }) ==
        "decay is 2, expected 0 <= learning rate * weight decay <= 1");
  const std::vector<float> y_before = y.data;
  SparseGradLinear<float> truncated(ctx, weight.view(), nullptr,
                                    {.plan = Plan{SideOrder::multiply_first, SideOrder::project_first}});
  truncated.set_basis(
      ctx, TuckerBasis<float>::from_recipes(ctx, 3, 4, SideRecipe::identity(), SideRecipe::random(2)));
  CHECK(message_of([&] { truncated.forward(ctx, x.view(), y.view(), x.view()); }) ==
        "keep is 2x4, expected 2x2 (tokens x kept_cols())");
  CHECK(y.data == y_before);
  CHECK(message_of([] { (void)TopK::fraction(0, 10); }) == "density is 0, expected 0 < density <= 1");
  layer.clear(ctx);
  CHECK(message_of([&] { layer.set_basis(ctx, TuckerBasis<float>::identity(4, 3)); }) ==
        "basis is 4x3, expected 3x4 (out x in of the weight)");
  CHECK(message_of([&] { CoreGradient<float>(ctx, 0, 3); }) == "weight is 0x3, expected positive extents");
  CHECK(message_of([&] { SparseGradLinear<float>(ctx, MatrixView<float>(), nullptr); }) ==
        "weight is 0x0, expected positive extents");

  Padded<float> bad(random.matrix(3, 4));
  bad.view()(1, 2) = std::numeric_limits<float>::quiet_NaN();
  layer.add_gradient(ctx, bad.view());
  CHECK(message_of([&] { layer.select(ctx, TopK{2}, s); }) ==
        "the core gradient of 3x4 holds NaN at row 1, column 2; expected finite numbers");
  CHECK(s.count() == 0);
  CHECK(layer.select(ctx, TopK{2}, s, NonFinite::skip).skipped);
  CHECK(s.count() == 0);
  const SelectReport report = layer.select(ctx, TopK{2}, s, NonFinite::propagate);
  CHECK(report.kept == 2);
  CHECK(std::isnan(s.values()[0] + s.values()[1]));
  layer.clear(ctx);
  CHECK(weight.data == before);
}

namespace {

/// Notes along which extent an update is expanded sparsely.
struct Noting : backend::Reference {
  static inline index_t extent = 0;

  template <class T>
  static void expand_rows(Context& ctx, const stored_index_t* row, const stored_index_t* col, const T* value,
                          index_t k, ConstMatrixView<T> f, MatrixView<T> m) {
    extent = m.cols;
    Reference::expand_rows<T>(ctx, row, col, value, k, f, m);
  }
};

}  // namespace

TEST_CASE("a layer takes its orders from its own cost model") {
  Noting::Context ctx;
  const int out = 12;
  const int in = 8;
  oracle::Random random(3);
  const Matrix v = random.orthonormal(out, out);
  const Matrix u = random.orthonormal(in, in);
  const auto basis = TuckerBasis<double, Noting>::from_sides(
      BasisSide<double, Noting>::from_factor(ctx, Padded<double>(v).view()),
      BasisSide<double, Noting>::from_factor(ctx, Padded<double>(u).view()));
  const Matrix w = random.matrix(out, in);
  Matrix d(out, in);
  std::vector<stored_index_t> index;
  std::vector<double> value;
  for (const int e : {3, 10, 21, 30, 44, 51, 60, 77, 80, 95}) {
    index.push_back(static_cast<stored_index_t>(e));
    value.push_back(random.next());
    d.data[static_cast<std::size_t>(e)] = value.back();
  }
  SparseGradient<double, Noting> update(ctx, out, in, 10);
  update.assign(ctx, index, value);
  const Matrix expected = oracle::sum(w, oracle::product(oracle::product(v, d), oracle::transposed(u)));

  // The update of 10 entries: cheap sparse entries pass over the wider side, whose panel then meets the smaller
  // dense product; dear ones become a dense matrix.
  for (const auto& [sparse_entry, extent] : {std::pair(0.0, out), std::pair(100.0, 0)}) {
    Padded<double> weight(w);
    Noting::extent = 0;
    SparseGradLinear<double, Noting> layer(ctx, weight.view(), nullptr,
                                           {.cost_model = CostModel{.sparse_entry = sparse_entry}});
    layer.set_basis(ctx, basis);
    layer.apply(ctx, update);
    CHECK(Noting::extent == extent);
    const Matrix found = weight.matrix();
    for (std::size_t e = 0; e < found.data.size(); ++e)
      CHECK(found.data[e] == doctest::Approx(expected.data[e]).epsilon(1e-12));
  }

  // A transform of fewer tokens than outputs comes first, unless it costs nothing: a tie.
  const auto fast = TuckerBasis<double, Noting>::from_sides(BasisSide<double, Noting>::identity(out),
                                                            BasisSide<double, Noting>::hadamard(ctx, in, 1));
  for (const auto& [transform_entry, order] :
       {std::pair(80.0, SideOrder::project_first), std::pair(0.0, SideOrder::multiply_first)}) {
    Padded<double> weight(w);
    SparseGradLinear<double, Noting> layer(
        ctx, weight.view(), nullptr,
        {.workload = {4, 1}, .cost_model = CostModel{.transform_entry = transform_entry}});
    layer.set_basis(ctx, fast);
    CHECK(layer.plan().in == order);
  }
}

TEST_CASE("the cost model picks the orders of the design's table") {
  const SideShape out_full{SideKind::factor, 3072, 3072};
  const SideShape in_full{SideKind::factor, 768, 768};
  const SideShape none_out{SideKind::identity, 3072, 3072};
  const SideShape in_64{SideKind::factor, 768, 64};
  constexpr auto first = SideOrder::project_first;
  constexpr auto last = SideOrder::multiply_first;
  // Full sides: project x first iff T < out, dY first iff T < in.
  CHECK(choose_plan(out_full, in_full, {512, 1}) == Plan{first, first});
  CHECK(choose_plan(out_full, in_full, {2048, 1}) == Plan{last, first});
  CHECK(choose_plan(out_full, in_full, {4096, 1}) == Plan{last, last});
  CHECK(choose_plan(out_full, in_full, {512, 8}) == Plan{last, last});
  CHECK(choose_plan(none_out, in_full, {2048, 1}) == Plan{last, first});
  CHECK(choose_plan(none_out, in_64, {2048, 1}) == Plan{last, first});
  // DESIGN's multiply-adds of one 768 -> 3072 layer at 2048 tokens, forward and dX apart.
  const CostModel model;
  const double forward_and_dx = 2.0 * 2048 * 768 * 3072;
  CHECK(forward_and_dx + model.step({last, last}, out_full, in_full, {2048, 1}) ==
        doctest::Approx(23.55e9).epsilon(0.01));
  CHECK(forward_and_dx + model.step({last, first}, none_out, in_64, {2048, 1}) ==
        doctest::Approx(10.17e9).epsilon(0.01));
}
