// Test data to and from a backend's memory.
#pragma once

#include <random>
#include <vector>

#include <sparsegrad/core/backend.hpp>
#include <sparsegrad/core/buffer.hpp>

namespace sparsegrad::test {

template <class T>
using Host = std::vector<T>;

template <class B, class T>
Buffer<T, B> to_device(typename B::Context& ctx, const Host<T>& host) {
  Buffer<T, B> buffer(ctx, static_cast<index_t>(host.size()));
  if (!host.empty()) B::template upload<T>(ctx, host.data(), buffer.data(), buffer.size());
  return buffer;
}

template <class B, class T>
Host<T> to_host(typename B::Context& ctx, const T* p, index_t n) {
  Host<T> host(static_cast<std::size_t>(n));
  if (n > 0) B::template download<T>(ctx, p, host.data(), n);
  return host;
}

template <class T>
Host<T> normal(std::mt19937_64& random, index_t n, double scale = 1) {
  std::normal_distribution<double> distribution(0, scale);
  Host<T> x(static_cast<std::size_t>(n));
  for (T& v : x)
    v = static_cast<T>(distribution(random));
  return x;
}

}  // namespace sparsegrad::test
