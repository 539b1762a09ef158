#include <sparsegrad/backend/cpu.hpp>
#include <sparsegrad/backend/cpu_blas.hpp>
#include <sparsegrad/backend/fastest_of.hpp>

using Either = sparsegrad::backend::FastestOf<sparsegrad::backend::CpuBlas, sparsegrad::backend::Cpu>;

/// Products of one candidate for floats and of the other for doubles, without a measurement for each
/// of the tests' many contexts.
struct ContractBackend : Either {
  class Context : public Either::Context {
   public:
    explicit Context(int threads = 0, bool deterministic = false)
        : Either::Context(threads, deterministic, {"cpu", "cpu_blas", "cpu"}) {}
  };
};

#include "contract.hpp"
