// The rate at which the machine reads and writes memory.
#pragma once

#include <memory>

#include <sparsegrad/core/buffer.hpp>

#include "case.hpp"

namespace sparsegrad::bench {

/// y += a x on arrays of 64 MiB.
template <class Backend>
Work memory_walk(typename Backend::Context& ctx) {
  constexpr index_t n = index_t{1} << 24;
  auto x = std::make_shared<Buffer<float, Backend>>(ctx, n);
  auto y = std::make_shared<Buffer<float, Backend>>(ctx, n);
  return {.run = [&ctx, x, y] { Backend::template add<float>(ctx, 0.5F, x->matrix(1, n), y->matrix(1, n)); },
          .bytes = 3 * sizeof(float) * static_cast<double>(n)};
}

}  // namespace sparsegrad::bench
