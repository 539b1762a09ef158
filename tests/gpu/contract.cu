#include <sparsegrad/backend/cuda.cuh>

/// The contract's tests choose threads and determinism, which mean nothing here.
struct ContractBackend : sparsegrad::backend::Cuda {
  struct Context : sparsegrad::backend::Cuda::Context {
    explicit Context(int /*threads*/ = 0, bool /*deterministic*/ = false) {}
  };
};

#include "contract/batched.hpp"
