#include <sparsegrad/backend/cpu_blas.hpp>

#include "serve.hpp"

namespace sparsegrad::bench {

void serve_cpu_blas(const CaseOptions& options) {
  serve<backend::CpuBlas, float>(options);
}

}  // namespace sparsegrad::bench
