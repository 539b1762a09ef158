// The cost model's weights on this machine, measured in a few seconds.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sparsegrad/default_cost_model.hpp>

#include "../measured_model.hpp"
#include "../memory_walk.hpp"
#include "../part_cases.hpp"

namespace sparsegrad::bench {

struct Calibration {
  CostModel model;                                        ///< of every part's least processor time
  CostModel built_in;                                     ///< what a layer takes that is given none
  RotationPrecision rotations = RotationPrecision::full;  ///< of such a layer
  std::vector<CostModel> rounds;                          ///< of single rounds: how far to trust `model`
  double product_flops = 0;  ///< of the dense product with tokens, a second, best
  double memory_bytes = 0;   ///< read and written a second by y += a x on arrays beyond the caches, best
};

/// dW = dY^T X of tokens in T, sums in float.
template <class Backend, class T>
Work token_product(typename Backend::Context& ctx, const LayerShape& shape) {
  const auto tokens = [&ctx, &shape](index_t cols, std::uint64_t seed) {
    const Buffer<float, Backend> numbers = normal_matrix<Backend>(ctx, shape.tokens, cols, 0, seed);
    auto stored = std::make_shared<Buffer<T, Backend>>(ctx, shape.tokens * cols);
    const auto from = numbers.matrix(shape.tokens, cols);
    if constexpr (is_low_precision<T>) {
      Backend::template round_to<T>(ctx, from, stored->matrix(shape.tokens, cols));
    } else {
      Backend::template copy<T>(ctx, from, stored->matrix(shape.tokens, cols));
    }
    return stored;
  };
  auto dy = tokens(shape.out, 41);
  auto x = tokens(shape.in, 42);
  auto dw = std::make_shared<Buffer<float, Backend>>(ctx, shape.out * shape.in);
  const auto run = [&ctx, shape, dy, x, dw] {
    const MatrixView<const T> a = dy->matrix(shape.tokens, shape.out);
    const MatrixView<const T> b = x->matrix(shape.tokens, shape.in);
    const MatrixView<float> c = dw->matrix(shape.out, shape.in);
    if constexpr (is_low_precision<T>) {
      Backend::template gemm_wide<T>(ctx, Op::transpose, Op::none, 1, a, b, 0, c);
    } else {
      Backend::template gemm<T>(ctx, Op::transpose, Op::none, 1, a, b, 0, c);
    }
  };
  return {.run = run,
          .flops = 2 * static_cast<double>(shape.tokens) * static_cast<double>(shape.out) *
                   static_cast<double>(shape.in)};
}

/// dW U of a finished gradient, with all vectors of the in side.
template <class Backend>
Work rotation(typename Backend::Context& ctx, const LayerShape& shape, RotationPrecision precision) {
  auto dw = std::make_shared<Buffer<float, Backend>>(normal_matrix<Backend>(ctx, shape.out, shape.in, 0, 43));
  auto core = std::make_shared<Buffer<float, Backend>>(ctx, shape.out * shape.in);
  const auto basis = TuckerBasis<float, Backend>::from_sides(
      BasisSide<float, Backend>::identity(shape.out), stored_side<Backend>(ctx, shape.in, shape.in, 44));
  const auto run = [&ctx, shape, precision, dw, core, basis] {
    const detail::BasisRotations<float, Backend> sides(ctx, *basis, precision);
    sides.in.project_columns(ctx, dw->matrix(shape.out, shape.in), core->matrix(shape.out, shape.in));
  };
  return {.run = run,
          .flops = 2 * static_cast<double>(shape.out) * static_cast<double>(shape.in) *
                   static_cast<double>(shape.in)};
}

/// What the weights mean for layers that store T. The parts run in turn for about `seconds`, five rounds at least. The weights are ratios of processor times: all parts use
/// all threads, and what else the machine does would lengthen the wall-clock time of a long part more often than that of a
/// short one.
template <class Backend, class T>
Calibration calibrate(typename Backend::Context& ctx, const LayerShape& shape, double seconds) {
  typename Backend::Context one_thread(1);
  const std::vector<Case> cases = part_cases<Backend>(ctx, one_thread, shape);
  Calibration c;
  c.rotations = default_rotations<T, Backend>(ctx);
  c.built_in = default_cost_model<T, Backend>(ctx, c.rotations);
  // The first part's place is taken by the product of tokens as they are stored.
  std::vector<Work> works{token_product<Backend, T>(ctx, shape)};
  for (const std::string_view name : model_parts) {
    if (name == model_parts.front()) continue;
    const auto part = std::find_if(cases.begin(), cases.end(), [&](const Case& p) { return p.name == name; });
    if (part == cases.end()) throw std::logic_error("no part is named " + std::string(name));
    works.push_back(part->prepare());
  }
  works.push_back(rotation<Backend>(ctx, shape, c.rotations));
  works.push_back(memory_walk<Backend>(ctx));
  for (const Work& work : works)
    work.run();

  const auto model_of = [&](const std::vector<double>& seconds_of) {
    CostModel model = measured_model(shape, [&](std::string_view name) {
      const auto part = static_cast<std::size_t>(std::find(model_parts.begin(), model_parts.end(), name) -
                                                 model_parts.begin());
      return PartTime{seconds_of[part], works[part].flops};
    });
    constexpr std::size_t place = model_parts.size();
    model.rotation_product = seconds_of[place] / works[place].flops / (seconds_of[0] / works[0].flops);
    return model;
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> best(works.size(), infinity);
  double product_wall = infinity;
  double memory_wall = infinity;
  const auto start = std::chrono::steady_clock::now();
  const auto passed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (c.rounds.size() < 5 || passed() < seconds) {
    std::vector<Sample> round;
    std::vector<double> cpu;
    for (std::size_t i = 0; i < works.size(); ++i) {
      round.push_back(time(works[i]));
      cpu.push_back(round[i].cpu);
      best[i] = std::min(best[i], cpu[i]);
    }
    c.rounds.push_back(model_of(cpu));
    product_wall = std::min(product_wall, round.front().wall);
    memory_wall = std::min(memory_wall, round.back().wall);
  }
  c.model = model_of(best);
  c.product_flops = works.front().flops / product_wall;
  c.memory_bytes = works.back().bytes / memory_wall;
  return c;
}

}  // namespace sparsegrad::bench
