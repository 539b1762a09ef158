// The C interface on backend::CpuBlas.
#ifdef SPARSEGRAD_COMPILED
#include <sparsegrad/compiled/cpu_blas.hpp>
#else
#include <sparsegrad/backend/cpu_blas.hpp>
#endif

#include "context_handle.hpp"

namespace sparsegrad::c {

std::unique_ptr<AnyContext> make_blas_context(const sparsegrad_context_options& options) {
  return ContextHandle<backend::CpuBlas>::make(SPARSEGRAD_BACKEND_BLAS, options);
}

}  // namespace sparsegrad::c
