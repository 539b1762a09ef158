#include <sparsegrad/backend/cpu_onednn.hpp>

#include "serve.hpp"

namespace sparsegrad::bench {

void serve_cpu_onednn_bf16(const CaseOptions& options) {
  serve<backend::CpuOneDnn, bfloat16>(options);
}

}  // namespace sparsegrad::bench
