// One layer by hand: forward, backward, select, SparseAdam, apply. Beside it the same steps as the paper writes them,
// in the rotated space W~ = V^T W U, by plain loops. Both give the same weight.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/02_one_layer.cpp -o one_layer
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_adam.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

struct Matrix {
  int rows, cols;
  std::vector<double> a = std::vector<double>(rows * cols);
  double& operator()(int i, int j) { return a[i * cols + j]; }
  double operator()(int i, int j) const { return a[i * cols + j]; }
  sparsegrad::MatrixView<double> view() { return {a.data(), rows, cols}; }
};
Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix c{a.rows, b.cols};
  for (int i = 0; i < a.rows; ++i)
    for (int l = 0; l < a.cols; ++l)
      for (int j = 0; j < b.cols; ++j)
        c(i, j) += a(i, l) * b(l, j);
  return c;
}
Matrix transposed(const Matrix& a) {
  Matrix b{a.cols, a.rows};
  for (int i = 0; i < b.rows; ++i)
    for (int j = 0; j < b.cols; ++j)
      b(i, j) = a(j, i);
  return b;
}

int main() {
  using namespace sparsegrad;
  constexpr int in = 12, out = 16, tokens = 24, k = 10;
  backend::Cpu::Context ctx;
  Matrix W{out, in}, X{tokens, in}, Y{tokens, out}, dX{tokens, in}, target{tokens, out};
  std::mt19937 random;
  for (Matrix* m : {&W, &X, &target})
    for (double& entry : m->a)
      entry = static_cast<double>(random()) * 0x1p-32 - 0.5;
  const auto loss_gradient = [&](Matrix y) {  // of |Y - target|^2 / (2 tokens)
    for (std::size_t i = 0; i < y.a.size(); ++i)
      y.a[i] = (y.a[i] - target.a[i]) / tokens;
    return y;
  };

  // The basis: both sides full, from the first gradient. Its factors are stored transposed.
  Matrix dW = transposed(loss_gradient(X * transposed(W))) * X;
  HosvdAccumulator<double> sums(ctx, out, in);
  sums.add(ctx, dW.view());
  const auto basis = TuckerBasis<double>::fit(ctx, sums, SideRecipe::hosvd(), SideRecipe::hosvd());
  Matrix Vt{out, out}, Ut{in, in};
  std::copy_n(basis->out().factor().data, out * out, Vt.a.begin());
  std::copy_n(basis->in().factor().data, in * in, Ut.a.begin());

  SparseGradLinear<double> layer(ctx, W.view(), nullptr);
  layer.set_basis(ctx, basis);
  SparseAdam<double> adam(ctx, out, in);
  SparseGradient<double> s(ctx, out, in, k), d(ctx, out, in, k);
  Matrix rotated = Vt * W * transposed(Ut), m{out, in}, v{out, in};
  for (int step = 1; step <= 5; ++step) {
    const auto saved = layer.forward(ctx, X.view(), Y.view());
    layer.backward(ctx, loss_gradient(Y).view(), saved, dX.view(), nullptr);
    layer.select(ctx, TopK{k}, s);
    adam.step(ctx, s, {.learning_rate = 0.01}, d);  // d carries the minus
    layer.apply(ctx, d);                            // W += V d U^T
    layer.clear();

    const Matrix dY = loss_gradient(X * transposed(Ut) * transposed(rotated) * Vt);
    const Matrix g = Vt * transposed(dY) * X * transposed(Ut);
    std::vector<double> sizes = g.a;
    for (double& size : sizes)
      size = std::abs(size);
    std::sort(sizes.rbegin(), sizes.rend());
    const double rate = 0.01 * std::sqrt(1 - std::pow(0.999, step)) / (1 - std::pow(0.9, step));
    for (std::size_t i = 0; i < g.a.size(); ++i) {
      if (std::abs(g.a[i]) < sizes[k - 1]) continue;
      m.a[i] += 0.1 * (g.a[i] - m.a[i]);
      v.a[i] += 0.001 * (g.a[i] * g.a[i] - v.a[i]);
      rotated.a[i] -= rate * m.a[i] / (std::sqrt(v.a[i]) + 1e-8);
    }
    const Matrix back = transposed(Vt) * rotated * Ut;
    double difference = 0;
    for (std::size_t i = 0; i < back.a.size(); ++i)
      difference = std::max(difference, std::abs(back.a[i] - W.a[i]));
    std::printf("step %d: %d of %d entries, W = V W~ U^T to 1e-9: %s\n", step, static_cast<int>(s.count()),
                out * in, difference < 1e-9 ? "yes" : "no");
  }
}
