#!/usr/bin/env bash
# test_gpu.sh: builds library, program and tests for this machine's NVIDIA GPU, runs the tests labelled gpu, and runs them
# again under every tool of compute-sanitizer. Needs the CUDA Toolkit and a GPU; says so where one is missing.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v nvcc > /dev/null || die "nvcc is missing: install the CUDA Toolkit, and put its bin folder on PATH"
nvidia-smi --list-gpus 2> /dev/null | grep -q . || die "nvidia-smi shows no GPU here"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

configure cuda -DCMAKE_CUDA_ARCHITECTURES=native
build cuda tests_gpu sparsegrad-glue

say "Tests"
ctest --preset cuda -L gpu --exclude-regex gpu_headers

if ! command -v compute-sanitizer > /dev/null; then
  say "compute-sanitizer is not on PATH, its runs are left out"
  exit 0
fi
for tool in memcheck racecheck initcheck synccheck; do
  for test in "$project_root"/build/cuda/tests/gpu/test_gpu_*; do
    say "compute-sanitizer --tool $tool: ${test##*/}"
    CUDA_LAUNCH_BLOCKING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 "$test"
  done
done
