// A selector of your own, with a state: it watches the first steps' gradients, then trains the entries with the largest
// sums, and no others ever (SIFT's rule). The group saves and restores its state with the rest.
//
// g++ -std=c++20 -O2 -I include -isystem /usr/include/eigen3 examples/13_own_selector.cpp -o own_selector
#include <sparsegrad/sparsegrad.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace sparsegrad;
using Context = backend::Cpu::Context;
using Core = MatrixView<const float>;

/// Any callable (ctx, core, s) is a selector. The other members are optional; see selector.hpp.
class FirstGradients {
 public:
  /// Changes no state: the step may be skipped.
  void operator()(Context& ctx, Core core, SparseGradient<float>& s) const {
    if (steps_ < watched) return s.clear();  // no entry, nothing moves
    TopK{s.capacity()}(ctx, Core(sums_.data(), core.rows, core.cols), s);
    for (index_t e = 0; e < s.count(); ++e)
      s.values()[e] = core.data[s.indices()[e]];
  }
  /// The step was taken.
  void committed(Context&, Core core, const SparseGradient<float>&) {
    if (steps_++ >= watched) return;
    sums_.resize(core.size());
    for (index_t e = 0; e < core.size(); ++e)
      sums_[e] += core.data[e];
  }
  SelectorState<float> state(Context&) const {
    std::vector<float> values = sums_;
    values.push_back(static_cast<float>(steps_));
    return {{}, values};
  }
  void restore(Context&, const SelectorState<float>& saved) {
    sums_ = saved.values;
    steps_ = static_cast<int>(sums_.back());
    sums_.pop_back();
  }

 private:
  static constexpr int watched = 40;
  std::vector<float> sums_;
  int steps_ = 0;
};

/// 40 of 400 entries of W have something to learn; gradients are noisy.
struct Training {
  Context ctx;
  std::vector<float> w = std::vector<float>(400), dw = w;
  SparseGradGroup<float> group{{.entries = 40}};

  Training() { group.add_weight(ctx, {w.data(), 20, 20}, "w", {.gradient = {dw.data(), 20, 20}}); }

  static float wanted(std::size_t i) { return i % 10 == 0 ? 1.0f : 0.0f; }
  double distance() const {
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i)
      sum += (w[i] - wanted(i)) * (w[i] - wanted(i));
    return std::sqrt(sum);
  }
  void run(int first, int last) {
    for (int step = first; step < last; ++step) {
      std::mt19937 random(static_cast<unsigned>(step));
      for (std::size_t i = 0; i < w.size(); ++i)
        dw[i] = w[i] - wanted(i) + 4 * (static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f);
      group.step(ctx, {.learning_rate = 0.01});
    }
  }
};

void print(const char* name, const Training& of) {
  const auto changed = std::count_if(of.w.begin(), of.w.end(), [](float x) { return x != 0; });
  std::printf("%-15s distance %.1f, %3d of 400 entries have changed\n", name, of.distance(),
              static_cast<int>(changed));
}

int main() {
  Training plain, first, resumed;
  first.group.use_selector(first.ctx, 0, FirstGradients());
  resumed.group.use_selector(resumed.ctx, 0, FirstGradients());
  print("start", plain);
  plain.run(0, 400);
  print("top-k", plain);
  first.run(0, 200);
  resumed.w = first.w;
  resumed.group.restore(resumed.ctx, first.group.state(first.ctx));
  first.run(200, 400);
  print("first gradients", first);
  resumed.run(200, 400);
  std::printf("stopped at 200 and resumed, the same bits: %s\n", resumed.w == first.w ? "yes" : "no");
}
