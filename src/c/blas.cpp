// The C interface on backend::CpuBlas.
#include <sparsegrad/backend/cpu_blas.hpp>

#include "context_handle.hpp"

namespace sparsegrad::c {

std::unique_ptr<AnyContext> make_blas_context(const sparsegrad_context_options& options) {
  return ContextHandle<backend::CpuBlas>::make(SPARSEGRAD_BACKEND_BLAS, options);
}

}  // namespace sparsegrad::c
