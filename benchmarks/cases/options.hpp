// The command line of benchmark_cases, and the loops that serve it, one a backend and type.
#pragma once

#include <string>
#include <vector>

#include "../layer_steps.hpp"
#include "../machine.hpp"

namespace sparsegrad::bench {

struct CaseOptions {
  LayerShape shape = up_shape();
  index_t rank = 64;
  index_t gradients = 132;
  int threads = core_count();
  std::string backend = "cpu_blas";
  std::string dtype = "float";
};

/// Answers commands until the input ends.
using Serve = void (*)(const CaseOptions&);

void serve_cpu(const CaseOptions& options);
void serve_cpu_blas(const CaseOptions& options);
void serve_cpu_blas_bf16(const CaseOptions& options);
void serve_cpu_onednn(const CaseOptions& options);
void serve_cpu_onednn_bf16(const CaseOptions& options);

}  // namespace sparsegrad::bench
