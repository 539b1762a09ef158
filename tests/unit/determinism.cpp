// The same bits for any number of threads, at the size of BERT-base's layers.
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/sparsegrad.hpp>

#include <cstdint>

#include "doctest/doctest.h"
#include "support/hashed_steps.hpp"

extern "C" int openblas_get_num_threads(void);

using namespace sparsegrad;

using test::weight_after_20_steps;

TEST_CASE("deterministic contexts: 1, 2 and 3 threads train to the same bits") {
  const int blas_threads = openblas_get_num_threads();
  for (const SideRecipes& rules : {SideRecipes{SideRecipe::hadamard(), SideRecipe::hosvd()},
                                   SideRecipes{SideRecipe::identity(), SideRecipe::hosvd(64)}}) {
    const std::uint64_t one = weight_after_20_steps<backend::CpuBlas>(1, rules);
    CHECK(weight_after_20_steps<backend::CpuBlas>(2, rules) == one);
    CHECK(weight_after_20_steps<backend::CpuBlas>(3, rules) == one);
    const std::uint64_t eigen = weight_after_20_steps<backend::Cpu>(1, rules, 769, 193);
    CHECK(weight_after_20_steps<backend::Cpu>(2, rules, 769, 193) == eigen);
    CHECK(weight_after_20_steps<backend::Cpu>(3, rules, 769, 193) == eigen);
  }
  CHECK(openblas_get_num_threads() == blas_threads);  // no process-wide setting is touched
}

TEST_CASE("deterministic contexts: a layer of bfloat16") {
  const SideRecipes rules{SideRecipe::hadamard(), SideRecipe::hosvd(64)};
  const std::uint64_t one =
      weight_after_20_steps<backend::CpuBlas, sparsegrad::bfloat16>(1, rules, 1536, 384);
  CHECK(weight_after_20_steps<backend::CpuBlas, sparsegrad::bfloat16>(2, rules, 1536, 384) == one);
  CHECK(weight_after_20_steps<backend::CpuBlas, sparsegrad::bfloat16>(3, rules, 1536, 384) == one);
}

// Half the size: the eigenvectors of a side of 3072 would take most of the suite's time.
TEST_CASE("deterministic contexts: both sides full, as the paper") {
  const SideRecipes rules{SideRecipe::hosvd(), SideRecipe::hosvd()};
  const std::uint64_t one = weight_after_20_steps<backend::CpuBlas>(1, rules, 1536, 384);
  CHECK(weight_after_20_steps<backend::CpuBlas>(2, rules, 1536, 384) == one);
  CHECK(weight_after_20_steps<backend::CpuBlas>(3, rules, 1536, 384) == one);
}
