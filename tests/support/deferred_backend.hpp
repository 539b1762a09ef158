// A backend whose work is done when somebody waits for it, and not before, as on a GPU's stream: an algorithm that lets
// go of memory too early, that reads what another context has not finished, or that waits where it should not shows it
// here and not first on a GPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <sparsegrad/backend/scratch.hpp>
#include <sparsegrad/core/backend.hpp>

namespace sparsegrad::test {

/// A task's arguments as a launch keeps them: lists by value.
template <class X>
struct KeptList {
  std::vector<X> values;
  operator std::span<const X>() const { return values; }  // NOLINT(google-explicit-constructor)
};
template <class X>
X kept(const X& x) {
  return x;
}
template <class X>
KeptList<X> kept(const std::span<const X>& x) {
  return {std::vector<X>(x.begin(), x.end())};
}

/// `Base` with a queue for each context: a backend whose Context is the host's.
template <class Base>
struct Deferred {
  struct Context;

  /// Freeing memory waits for all work, as cudaFree does.
  static std::vector<Context*>& contexts() {
    static std::vector<Context*> all;
    return all;
  }
  static void finish_all() {
    for (Context* ctx : contexts())
      ctx->run();
  }

  struct Memory {
    std::byte* allocate(std::size_t bytes) { return typename Base::Memory().allocate(bytes); }
    void deallocate(std::byte* p) noexcept {
      finish_all();
      typename Base::Memory().deallocate(p);
    }
  };
  struct Context : Base::Context {
    Context() : Base::Context(1) { contexts().push_back(this); }
    ~Context() {
      run();
      std::erase(contexts(), this);
    }
    void run() {
      while (!queue.empty()) {
        const std::function<void()> work = std::move(queue.front());
        queue.pop_front();
        work();
      }
    }
    void synchronize() {
      ++waits;
      run();
    }
    void check() {
      synchronize();
      Base::Context::check();
    }
    backend::BasicScratch<Memory>& scratch() { return own_scratch; }
    auto frame() { return typename backend::BasicScratch<Memory>::Frame(own_scratch); }

    std::deque<std::function<void()>> queue;
    int waits = 0;
    backend::BasicScratch<Memory> own_scratch;
  };

  static constexpr const char* name() { return Base::name(); }
  static constexpr double dense_above_density = 0;  // as on a GPU: grouping a support waits
  static constexpr index_t most_expanded = Base::most_expanded;
  static double expansion_cost(const Context& ctx) { return Base::expansion_cost(ctx); }

  static Memory memory(const Context&) { return {}; }
  template <class T>
  static index_t scratch_bound(const Context& ctx, index_t n) {
    return Base::template scratch_bound<T>(ctx, n);
  }
  template <class T>
  static index_t batch_scratch_bound(const Context& ctx, index_t arrays, index_t elements) {
    return Base::template batch_scratch_bound<T>(ctx, arrays, elements);
  }

// Work that no number of goes back to the host.
#define SPARSEGRAD_TEST_DEFERRED(primitive)                                                       \
  template <class T, class... A>                                                                  \
  static void primitive(Context& ctx, const A&... a) requires requires {                          \
    Base::template primitive<T>(ctx, a...);                                                       \
  }                                                                                               \
  {                                                                                               \
    ctx.queue.push_back([&ctx, ... own = kept(a)] { Base::template primitive<T>(ctx, own...); }); \
  }
  SPARSEGRAD_TEST_DEFERRED(zero)
  SPARSEGRAD_TEST_DEFERRED(copy)
  SPARSEGRAD_TEST_DEFERRED(transpose)
  SPARSEGRAD_TEST_DEFERRED(gemm)
  SPARSEGRAD_TEST_DEFERRED(gemm_batched)
  SPARSEGRAD_TEST_DEFERRED(gemm_wide)
  SPARSEGRAD_TEST_DEFERRED(widen)
  SPARSEGRAD_TEST_DEFERRED(round_to)
  SPARSEGRAD_TEST_DEFERRED(gram)
  SPARSEGRAD_TEST_DEFERRED(column_sums)
  SPARSEGRAD_TEST_DEFERRED(add_to_rows)
  SPARSEGRAD_TEST_DEFERRED(scale)
  SPARSEGRAD_TEST_DEFERRED(add)
  SPARSEGRAD_TEST_DEFERRED(add_wide)
  SPARSEGRAD_TEST_DEFERRED(hadamard)
  SPARSEGRAD_TEST_DEFERRED(top_k)
  SPARSEGRAD_TEST_DEFERRED(gather)
  SPARSEGRAD_TEST_DEFERRED(scatter)
  SPARSEGRAD_TEST_DEFERRED(scatter_add)
  SPARSEGRAD_TEST_DEFERRED(sampled_product)
  SPARSEGRAD_TEST_DEFERRED(expand_rows)
  SPARSEGRAD_TEST_DEFERRED(gather_rows)
  SPARSEGRAD_TEST_DEFERRED(add_columns)
  SPARSEGRAD_TEST_DEFERRED(insert_entries)
  SPARSEGRAD_TEST_DEFERRED(adam)
  SPARSEGRAD_TEST_DEFERRED(round_rows)
  SPARSEGRAD_TEST_DEFERRED(expand_nonzeros)
  SPARSEGRAD_TEST_DEFERRED(keep_largest_of_rows)
  SPARSEGRAD_TEST_DEFERRED(top_k_batched)
  SPARSEGRAD_TEST_DEFERRED(adam_batched)
  SPARSEGRAD_TEST_DEFERRED(zero_batched)
  SPARSEGRAD_TEST_DEFERRED(scale_batched)
  SPARSEGRAD_TEST_DEFERRED(guard_step)
#undef SPARSEGRAD_TEST_DEFERRED

// What the host waits for.
#define SPARSEGRAD_TEST_WAITING(primitive)                          \
  template <class T, class... A>                                    \
  static decltype(auto) primitive(Context& ctx, A&&... a) {         \
    ctx.synchronize();                                              \
    return Base::template primitive<T>(ctx, std::forward<A>(a)...); \
  }
  SPARSEGRAD_TEST_WAITING(upload)
  SPARSEGRAD_TEST_WAITING(download)
  SPARSEGRAD_TEST_WAITING(squared_norm)
  SPARSEGRAD_TEST_WAITING(first_nonfinite)
  SPARSEGRAD_TEST_WAITING(first_nonfinite_batched)
  SPARSEGRAD_TEST_WAITING(squared_norm_batched)
#undef SPARSEGRAD_TEST_WAITING
  template <class... A>
  static void eigh(Context& ctx, A&&... a) {
    ctx.synchronize();
    Base::eigh(ctx, std::forward<A>(a)...);
  }
  template <class... A>
  static index_t locate_entries(Context& ctx, A&&... a) {
    ctx.synchronize();
    return Base::locate_entries(ctx, std::forward<A>(a)...);
  }
  template <class... A>
  static index_t group_support(Context& ctx, A&&... a) {
    ctx.synchronize();
    return Base::group_support(ctx, std::forward<A>(a)...);
  }
};

}  // namespace sparsegrad::test
