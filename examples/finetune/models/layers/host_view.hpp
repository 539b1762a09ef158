#pragma once

#include <cstddef>
#include <vector>

#include "placed_batch.hpp"

namespace sparsegrad::finetune {

/// Calls f with the address of n elements in host memory: where they lie, or a copy of what a device holds.
template <class Backend, class T, class F>
void visit_on_host(typename Backend::Context& ctx, const T* p, std::size_t n, F&& f) {
  if constexpr (ThrustBackend<Backend>) {
    std::vector<T> copy(n);
    if (n > 0) Backend::template download<T>(ctx, p, copy.data(), static_cast<index_t>(n));
    f(static_cast<const T*>(copy.data()));
  } else {
    f(p);
  }
}

}  // namespace sparsegrad::finetune
