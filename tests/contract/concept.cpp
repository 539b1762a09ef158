// What the concept Backend asks for.
#include <doctest/doctest.h>

#include <sparsegrad/backend/reference.hpp>

namespace sparsegrad {
namespace {

struct Whole : backend::Reference {};
/// Each lacks one primitive of those that were not asked for before.
struct NoBatch : backend::Reference {
  static void gemm_batched();
};
struct NoTransform : backend::Reference {
  static void hadamard();
};

TEST_CASE("the concept Backend names every primitive that layers call") {
  CHECK(Backend<Whole>);
  CHECK_FALSE(Backend<NoBatch>);
  CHECK_FALSE(Backend<NoTransform>);
}

}  // namespace
}  // namespace sparsegrad
