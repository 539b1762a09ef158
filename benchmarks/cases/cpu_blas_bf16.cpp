#include <sparsegrad/backend/cpu_blas.hpp>

#include "serve.hpp"

namespace sparsegrad::bench {

void serve_cpu_blas_bf16(const CaseOptions& options) {
  serve<backend::CpuBlas, bfloat16>(options);
}

}  // namespace sparsegrad::bench
