// A backend whose memory the host cannot touch outside the primitives, as it cannot touch a GPU's: an algorithm that
// reads a number through a view, in place of asking the backend for it, ends in a fault here and not first on a GPU.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include <sparsegrad/backend/host/context.hpp>
#include <sparsegrad/core/backend.hpp>

namespace sparsegrad::test {

/// Whole pages, closed but for the time in which a Fence::Gate is open.
class Fence {
 public:
  static std::byte* allocate(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t size = (bytes + page - 1) / page * page;
    void* p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    regions()[static_cast<std::byte*>(p)] = size;
    return static_cast<std::byte*>(p);
  }
  static void deallocate(void* p) noexcept {
    const auto place = regions().find(static_cast<std::byte*>(p));
    munmap(p, place->second);
    regions().erase(place);
  }

  class Gate {
   public:
    Gate() { protect(PROT_READ | PROT_WRITE); }
    ~Gate() { protect(PROT_NONE); }
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
  };

 private:
  static std::map<std::byte*, std::size_t>& regions() {
    static std::map<std::byte*, std::size_t> all;
    return all;
  }
  static void protect(int access) {
    for (const auto& [p, size] : regions())
      mprotect(p, size, access);
  }
};

/// `Base` on fenced memory: a backend whose Context is the host's.
template <class Base>
struct Fenced {
  struct Memory {
    std::byte* allocate(std::size_t bytes) { return Fence::allocate(bytes); }
    void deallocate(std::byte* p) noexcept { Fence::deallocate(p); }
  };
  struct Context : Base::Context {
    Context() : Base::Context(1) {}
    backend::BasicScratch<Memory>& scratch() { return fenced; }
    auto frame() { return typename backend::BasicScratch<Memory>::Frame(fenced); }
    backend::BasicScratch<Memory> fenced;
  };

  using System = typename Base::System;

  static constexpr const char* name() { return Base::name(); }
  static constexpr double dense_above_density = Base::dense_above_density;
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

#define SPARSEGRAD_TEST_FENCED(primitive)                           \
  template <class T, class... A>                                    \
  static decltype(auto) primitive(Context& ctx, A&&... a) {         \
    const Fence::Gate gate;                                         \
    return Base::template primitive<T>(ctx, std::forward<A>(a)...); \
  }
  SPARSEGRAD_TEST_FENCED(zero)
  SPARSEGRAD_TEST_FENCED(copy)
  SPARSEGRAD_TEST_FENCED(transpose)
  SPARSEGRAD_TEST_FENCED(gemm)
  SPARSEGRAD_TEST_FENCED(gemm_batched)
  SPARSEGRAD_TEST_FENCED(gemm_wide)
  SPARSEGRAD_TEST_FENCED(widen)
  SPARSEGRAD_TEST_FENCED(round_to)
  SPARSEGRAD_TEST_FENCED(gram)
  SPARSEGRAD_TEST_FENCED(column_sums)
  SPARSEGRAD_TEST_FENCED(add_to_rows)
  SPARSEGRAD_TEST_FENCED(scale)
  SPARSEGRAD_TEST_FENCED(add)
  SPARSEGRAD_TEST_FENCED(add_wide)
  SPARSEGRAD_TEST_FENCED(hadamard)
  SPARSEGRAD_TEST_FENCED(top_k)
  SPARSEGRAD_TEST_FENCED(gather)
  SPARSEGRAD_TEST_FENCED(scatter)
  SPARSEGRAD_TEST_FENCED(scatter_add)
  SPARSEGRAD_TEST_FENCED(sampled_product)
  SPARSEGRAD_TEST_FENCED(expand_rows)
  SPARSEGRAD_TEST_FENCED(gather_rows)
  SPARSEGRAD_TEST_FENCED(add_columns)
  SPARSEGRAD_TEST_FENCED(insert_entries)
  SPARSEGRAD_TEST_FENCED(top_k_batched)
  SPARSEGRAD_TEST_FENCED(adam_batched)
  SPARSEGRAD_TEST_FENCED(zero_batched)
  SPARSEGRAD_TEST_FENCED(scale_batched)
  SPARSEGRAD_TEST_FENCED(guard_step)
  SPARSEGRAD_TEST_FENCED(adam)
  SPARSEGRAD_TEST_FENCED(round_rows)
  SPARSEGRAD_TEST_FENCED(expand_nonzeros)
  SPARSEGRAD_TEST_FENCED(keep_largest_of_rows)
#undef SPARSEGRAD_TEST_FENCED

  /// How often a GPU would have been waited for by these, since the program began.
  static int& waits() {
    static int count = 0;
    return count;
  }
#define SPARSEGRAD_TEST_WAITING(primitive)                          \
  template <class T, class... A>                                    \
  static decltype(auto) primitive(Context& ctx, A&&... a) {         \
    const Fence::Gate gate;                                         \
    ++waits();                                                      \
    return Base::template primitive<T>(ctx, std::forward<A>(a)...); \
  }
  SPARSEGRAD_TEST_WAITING(upload)
  SPARSEGRAD_TEST_WAITING(download)
  SPARSEGRAD_TEST_WAITING(squared_norm)
  SPARSEGRAD_TEST_WAITING(first_nonfinite)
  SPARSEGRAD_TEST_WAITING(first_nonfinite_batched)
  SPARSEGRAD_TEST_WAITING(squared_norm_batched)
#undef SPARSEGRAD_TEST_WAITING
  /// As CUDA's, which does not wait.
  template <class T>
  static void stage(Context& ctx, const T* source, T* p, index_t n) {
    const Fence::Gate gate;
    Base::template upload<T>(ctx, source, p, n);
  }

  template <class... A>
  static void eigh(Context& ctx, A&&... a) {
    const Fence::Gate gate;
    Base::eigh(ctx, std::forward<A>(a)...);
  }
  template <class... A>
  static index_t locate_entries(Context& ctx, A&&... a) {
    const Fence::Gate gate;
    return Base::locate_entries(ctx, std::forward<A>(a)...);
  }
  template <class... A>
  static index_t group_support(Context& ctx, A&&... a) {
    const Fence::Gate gate;
    return Base::group_support(ctx, std::forward<A>(a)...);
  }
};

}  // namespace sparsegrad::test
