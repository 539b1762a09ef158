// After reserve(max_tokens) a whole step allocates nothing, whatever the number of tokens.
#include <doctest/doctest.h>

#include <utility>

#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>

#include "layer_steps.hpp"

using namespace sparsegrad;
using test::engine_steps_without_allocation;
using test::steps_without_allocation;

TEST_CASE_TEMPLATE("no allocation in a step after reserve", B, backend::Cpu, backend::CpuBlas) {
  for (const int threads : {1, 2, 3}) {
    for (const auto& [out, in] :
         {std::pair("full", "full"), std::pair("identity", "16"), std::pair("24", "identity"),
          std::pair("hadamard", "hadamard"), std::pair("hadamard", "full")}) {
      steps_without_allocation<B, float>(threads, out, in);
      steps_without_allocation<B, sparsegrad::bfloat16>(threads, out, in);
    }
  }
}

TEST_CASE_TEMPLATE("no allocation in a step with an engine's gradients after reserve", B, backend::Cpu,
                   backend::CpuBlas) {
  for (const int threads : {1, 2, 3}) {
    for (const auto& [out, in] : {std::pair("full", "full"), std::pair("identity", "16"),
                                  std::pair("24", "identity"), std::pair("identity", "identity"),
                                  std::pair("hadamard", "hadamard"), std::pair("hadamard", "full")}) {
      for (const bool early : {false, true})
        engine_steps_without_allocation<B>(threads, out, in, early);
    }
  }
}
