#include <sparsegrad/backend/cpu.hpp>

#include "serve.hpp"

namespace sparsegrad::bench {

void serve_cpu(const CaseOptions& options) {
  serve<backend::Cpu, float>(options);
}

}  // namespace sparsegrad::bench
