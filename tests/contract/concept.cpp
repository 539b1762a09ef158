// What the concept Backend asks for. tests/build/check_missing_primitive.sh looks at every primitive and at the messages.
#include <doctest/doctest.h>

#include <concepts>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/reference.hpp>

namespace sparsegrad {
namespace {

struct Complete : backend::Reference {};
/// Each lacks one primitive of those that were not asked for before.
struct NoBatch : backend::Reference {
  static void gemm_batched();
};
struct NoTransform : backend::Reference {
  static void hadamard();
};
struct NoWiden : backend::Reference {
  static void widen();
};
struct FloatAlone : backend::Reference {
  template <std::same_as<float> T>
  static void scale(Context& ctx, T alpha, MatrixView<T> a) {
    Reference::scale<T>(ctx, alpha, a);
  }
};

TEST_CASE("the concept Backend names every primitive that layers call") {
  CHECK(Backend<Complete>);
  CHECK_FALSE(Backend<NoBatch>);
  CHECK_FALSE(Backend<NoTransform>);
  CHECK_FALSE(Backend<NoWiden>);
}

TEST_CASE("the concept Backend asks for float and double") {
  CHECK(contract::ComputesType<FloatAlone, float>);
  CHECK_FALSE(contract::ComputesType<FloatAlone, double>);
  CHECK_FALSE(Backend<FloatAlone>);
}

TEST_CASE("optimised backends owe nothing to their oracle") {
  CHECK_FALSE(std::derived_from<backend::Cpu, backend::Reference>);
  CHECK(LowPrecisionBackend<backend::Cpu, bfloat16>);
}

}  // namespace
}  // namespace sparsegrad
