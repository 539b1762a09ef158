// The C interface on backend::Cpu.
#ifdef SPARSEGRAD_COMPILED
#include <sparsegrad/compiled/cpu.hpp>
#else
#include <sparsegrad/backend/cpu.hpp>
#endif

#include "context_handle.hpp"

namespace sparsegrad::c {

std::unique_ptr<AnyContext> make_eigen_context(const sparsegrad_context_options& options) {
  return ContextHandle<backend::Cpu>::make(SPARSEGRAD_BACKEND_EIGEN, options);
}

}  // namespace sparsegrad::c
