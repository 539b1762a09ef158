// The C interface on backend::CpuOneDnn.
#ifdef SPARSEGRAD_COMPILED
#include <sparsegrad/compiled/cpu_onednn.hpp>
#else
#include <sparsegrad/backend/cpu_onednn.hpp>
#endif

#include "context_handle.hpp"

namespace sparsegrad::c {

std::unique_ptr<AnyContext> make_onednn_context(const sparsegrad_context_options& options) {
  return ContextHandle<backend::CpuOneDnn>::make(SPARSEGRAD_BACKEND_ONEDNN, options);
}

}  // namespace sparsegrad::c
