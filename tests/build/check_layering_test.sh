#!/usr/bin/env bash
# check_layering.sh accepts a tree that keeps the rules and refuses each kind of fault.
set -euo pipefail

check=$(dirname "$0")/check_layering.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/core" "$tree/backend/host" "$tree/backend/thrust" "$tree/io" "$tree/detail"

cat > "$tree/top_k.hpp" <<'CODE'
// As Eigen::Map would, or cuda.
#define SPARSEGRAD_LIMIT 3
// Not std::isnan, not x != x.
namespace sparsegrad::SPARSEGRAD_ABI::detail {}
int least = (std::min)(a, std::max<int>(b, (std::numeric_limits<int>::min)()));
bool same = a.cols != b.cols && at != index[at] && x == y.x;
CODE
printf '#include <Eigen/Core>\nusing V = Eigen::VectorXf;\n' > "$tree/backend/cpu.hpp"
printf '#include <cblas.h>\n' > "$tree/backend/cpu_blas.hpp"
printf '#include <oneapi/dnnl/dnnl.hpp>\n' > "$tree/backend/cpu_onednn.hpp"
printf '#include <nlohmann/json.hpp>\n' > "$tree/io/files.hpp"
bash "$check" "$tree" || { echo "refused a tree without faults"; exit 1; }

# refuses FILE LINE
refuses() {
  local file=$tree/$1
  [[ -e $file ]] && cp "$file" "$file.saved"
  printf '%s\n' "$2" >> "$file"
  if bash "$check" "$tree" > /dev/null; then
    echo "accepted in $1: $2"
    exit 1
  fi
  rm "$file"
  if [[ -e $file.saved ]]; then mv "$file.saved" "$file"; fi
}
refuses top_k.hpp 'Eigen::MatrixXf m;'
refuses core/view.hpp 'cblas_saxpy(n);'
refuses sparse_adam.hpp 'cudaMalloc(p);'
refuses io/files.hpp 'thrust::sort(a, b);'
refuses core/view.hpp '#include <Eigen/Core>'
refuses backend/reference.hpp '# include <cblas.h>'
refuses backend/cpu.hpp '#include "lapacke.h"'
refuses backend/cpu_blas.hpp '#include <oneapi/dnnl/dnnl.hpp>'
refuses core/view.hpp '#include <dnnl.h>'
refuses top_k.hpp 'dnnl::engine e;'
refuses backend/cpu_onednn.hpp '#include <cblas.h>'
refuses core/view.hpp '#include <mpi.h>'
refuses detail/json.hpp '#include <nlohmann/json.hpp>'
refuses backend/cpu.hpp '#include <cuda_runtime.h>'
refuses backend/cpu.hpp '#define CHECK(x) x'
refuses backend/cpu.hpp 'omp_set_num_threads(1);'
refuses backend/cpu_blas.hpp 'openblas_set_num_threads(1);'
refuses top_k.hpp 'if (!std::isfinite(x)) return;'
refuses io/files.hpp 'return std::isnan(values[i]);'
refuses backend/thrust/sums.cuh 'found = isinf(x);'
refuses core/view.hpp 'if (x != x) return;'
refuses core/view.hpp 'return a.x == a.x;'
refuses plan.hpp 'double best = std::numeric_limits<double>::infinity();'
refuses backend/cpu.hpp 'struct Cpu : Reference {'
refuses backend/host/kernels.hpp '#include "../reference.hpp"'
refuses core/view.hpp 'namespace sparsegrad {'
refuses backend/thrust/sums.cuh 'namespace sparsegrad::detail {'
refuses core/view.hpp '#include <unistd.h>'
refuses backend/host/kernels.hpp '#include <sys/mman.h>'
refuses backend/cpu.hpp 'return std::min(a, b);'
refuses top_k.hpp 'const int most = std::numeric_limits<int>::max();'
echo "every fault was refused"
