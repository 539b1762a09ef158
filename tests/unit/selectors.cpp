#include <sparsegrad/top_k.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include "support/group_model.hpp"

using namespace sparsegrad;
using namespace sparsegrad::test;

TEST_CASE("selectors: a share of the entries that is whole but for its rounding counts as whole") {
  for (int percent = 1; percent <= 100; ++percent) {
    CAPTURE(percent);
    CHECK(TopK::fraction(percent / 100.0, 100).k == percent);
    CHECK(TopK::fraction(percent / 100.0, 1000000).k == percent * 10000);
    CHECK(TopK::fraction(percent / 100.0, 100000000).k == percent * 1000000);
  }
  CHECK(TopK::fraction(0.012, 768 * 3072).k == 28312);  // 28311.552
  CHECK(TopK::fraction(0.5, 3).k == 2);
  CHECK(TopK::fraction(1e-9, 10).k == 1);
  CHECK(TopK::fraction(0.5000001, 100000000).k == 50000010);
}

TEST_CASE("selectors: extents whose product leaves 64 bits are refused") {
  B::Context ctx;
  const index_t large = index_t{1} << 32;
  CHECK(contains(message_of([&] { SparseGradient<double, B>(ctx, large, large, 0); }), "beyond 2^31 - 1"));
  CHECK(
      contains(message_of([&] { SparseGradient<double, B>(ctx, large, 3 * large, 0); }), "beyond 2^31 - 1"));
  CHECK_NOTHROW(SparseGradient<double, B>(ctx, 0, large, 0));
}

namespace {

/// Whose first `zero` throws; counts what is allocated.
struct Failing : B {
  static inline int held = 0;
  static inline bool fails = false;
  struct Memory : B::Memory {
    std::byte* allocate(std::size_t bytes) {
      ++held;
      return B::Memory::allocate(bytes);
    }
    void deallocate(std::byte* p) noexcept {
      --held;
      B::Memory::deallocate(p);
    }
  };
  static Memory memory(const Context&) { return {}; }
  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    if (fails) throw StateError("zero failed");
    B::zero<T>(ctx, p, n);
  }
};

}  // namespace

TEST_CASE("selectors: a buffer whose first zeros fail gives its memory back") {
  Failing::Context ctx;
  Failing::fails = true;
  CHECK_THROWS_AS((Buffer<double, Failing>(ctx, 8)), StateError);
  Failing::fails = false;
  CHECK(Failing::held == 0);
}
