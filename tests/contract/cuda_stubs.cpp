// The contract on the CUDA backend without a GPU: its products, Gram sums and eigenproblems by functions that stand for
// cuBLAS's and cuSOLVER's.
#include "support/cuda_stubs/backend.hpp"

/// The contract's tests choose threads and determinism, which mean nothing here, hand host pointers over and read results
/// without waiting.
struct ContractBackend : sparsegrad::test::cuda_stubs::Cuda {
  struct Context : sparsegrad::test::cuda_stubs::Cuda::Context {
    explicit Context(int /*threads*/ = 0, bool /*deterministic*/ = false) {
      sparsegrad::test::cuda_stubs::Device::get().share_with_host();
    }
  };
};

#include "contract/batched.hpp"
