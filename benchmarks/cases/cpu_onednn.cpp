#include <sparsegrad/backend/cpu_onednn.hpp>

#include "serve.hpp"

namespace sparsegrad::bench {

void serve_cpu_onednn(const CaseOptions& options) {
  serve<backend::CpuOneDnn, float>(options);
}

}  // namespace sparsegrad::bench
