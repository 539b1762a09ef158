#!/usr/bin/env bash
# check_layering.sh accepts a tree that keeps the rules and refuses each kind of fault.
set -euo pipefail

check=$(dirname "$0")/check_layering.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
for folder in models/layers models/parameters models/mlp models/encoder tokenizers data checkpoints training programs replication tests; do
  mkdir -p "$tree/$folder"
done
cat > "$tree/models/layers/device.cuh" <<'CODE'
// Not by backend/thrust/batch.cuh, nor by system().
#include <sparsegrad/core/view.hpp>
#include <sparsegrad/sparsegrad_cuda.cuh>
CODE
printf '#include "models/layers/a.hpp"\n#include "models/model_error.hpp"\n' > "$tree/models/mlp/a.hpp"
printf '#include <sparsegrad/backend/cpu_blas.hpp>\n#include "models/mlp/a.hpp"\n' > "$tree/training/a.cpp"
printf '#include "training/a.hpp"\nint main() { return run_train(); }\n' > "$tree/programs/main.cpp"
printf '#include "support/fenced_backend.hpp"\n' > "$tree/tests/a.cpp"
bash "$check" "$tree" || { echo "refused a tree without faults"; exit 1; }

# refuses FILE LINE
refuses() {
  local file=$tree/$1
  [[ -e $file ]] && cp "$file" "$tree/saved"
  printf '%s\n' "$2" >> "$file"
  if bash "$check" "$tree" > /dev/null; then
    echo "accepted in $1: $2"
    exit 1
  fi
  rm "$file"
  if [[ -e $tree/saved ]]; then mv "$tree/saved" "$file"; fi
}
refuses models/layers/device.cuh '#include <sparsegrad/backend/thrust/batch.cuh>'
refuses models/layers/device.cuh '#include "sparsegrad/backend/cuda/check.cuh"'
refuses training/a.cpp '#include <sparsegrad/detail/random.hpp>'
refuses training/a.cpp '# include <sparsegrad/backend/host/top_k.hpp>'
refuses tests/a.cpp '#include <sparsegrad/backend/host/top_k.hpp>'
refuses models/layers/b.hpp '#include "models/encoder/a.hpp"'
refuses models/encoder/b.cpp '#include "training/a.hpp"'
refuses data/b.cpp '#include "training/a.hpp"'
refuses training/a.cpp '#include "programs/a.hpp"'
refuses checkpoints/a.cpp '#include "training/a.hpp"'
refuses tokenizers/a.cpp '#include "checkpoints/a.hpp"'
refuses training/a.cpp '#include "../../include/sparsegrad/plan.hpp"'
refuses programs/main.cpp 'int x = std::system("python3");'
refuses programs/main.cpp 'posix_spawnp(&child, a, b, c, d, e);'
refuses data/a.cpp 'if (!std::isfinite(x)) return;'
echo "every fault was refused"
