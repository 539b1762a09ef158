// A selector of your own: any callable that fills the sparse gradient. Here top-k with error feedback, which adds what
// one step leaves out to the next step's core (Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", 2018), beside
// plain top-k. The update is a plain gradient step, D = -lr S.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/13_own_selector.cpp -o own_selector
#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/sparse_grad_linear.hpp>

#include <cstdio>
#include <random>
#include <vector>

using namespace sparsegrad;
using Context = backend::Cpu::Context;

/// Its memory is a reference's target: a layer takes selectors as const.
struct ErrorFeedback {
  index_t k;
  std::vector<float>& left_out;  ///< [r, c]

  void operator()(Context& ctx, MatrixView<float> core, SparseGradient<float>& s) const {
    for (index_t i = 0; i < core.size(); ++i)
      core.data[i] += left_out[i];
    TopK{k}(ctx, core, s);
    left_out.assign(core.data, core.data + core.size());
    for (index_t e = 0; e < s.count(); ++e)
      left_out[s.indices()[e]] = 0;
  }
};

/// 2000 steps towards a teacher's weight, a token at a time; the mean loss |y - wanted|^2 / 2 of every 500.
template <class Selector>
void train(const char* name, const Selector& selector) {
  constexpr int in = 20, out = 20, k = 8;
  Context ctx;
  std::mt19937 random;
  const auto uniform = [&] { return static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f; };
  std::vector<float> w(out * in), teacher(out * in), x(in), y(out), dy(out);
  for (float& entry : teacher)
    entry = uniform();
  SparseGradLinear<float> layer(ctx, {w.data(), out, in}, nullptr);
  SparseGradient<float> s(ctx, out, in, k), d(ctx, out, in, k);
  std::printf("%-15s loss", name);
  double loss = 0;
  for (int step = 1; step <= 2000; ++step) {
    for (float& entry : x)
      entry = uniform();
    const auto saved = layer.forward(ctx, {x.data(), 1, in}, {y.data(), 1, out});
    for (int o = 0; o < out; ++o) {
      dy[o] = y[o];
      for (int i = 0; i < in; ++i)
        dy[o] -= teacher[o * in + i] * x[i];
      loss += 0.5 * dy[o] * dy[o] / 500;
    }
    layer.backward(ctx, {dy.data(), 1, out}, saved, {}, nullptr);
    layer.select(ctx, selector, s);
    d.copy_support(ctx, s);
    for (index_t e = 0; e < s.count(); ++e)
      d.values()[e] = -0.2f * s.values()[e];
    layer.apply(ctx, d);
    layer.clear(ctx);
    if (step % 500 == 0) {
      std::printf(" %6.3f", loss);
      loss = 0;
    }
  }
  std::printf("\n");
}

int main() {
  std::vector<float> left_out(20 * 20);
  train("top-k", TopK{8});
  train("error feedback", ErrorFeedback{8, left_out});
}
