#include <sparsegrad/sparsegrad.hpp>

#include <cstdio>
#include <vector>

int main() {
  using namespace sparsegrad;
  backend::Cpu::Context ctx;
  std::vector<float> w(64 * 32, 1.0F), dw(64 * 32, 0.5F);
  SparseGradGroup<float> group({.density = 0.05});
  const auto up = group.add_weight(ctx, {w.data(), 64, 32}, "up");
  group.set_gradient(up, {dw.data(), 64, 32});
  const auto report = group.step(ctx, {.learning_rate = 0.1});
  std::printf("sparsegrad %s: a step kept %lld entries\n", SPARSEGRAD_VERSION,
              static_cast<long long>(report.kept));
}
