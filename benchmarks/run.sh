#!/usr/bin/env bash
# Builds the benchmarks and writes this machine's pages of results; the machine should have nothing else to do.
#   run.sh [option...]       layer steps against the dense one, benchmarks/results/<machine>.md; some minutes; options of
#                            benchmark_compare (see the head of benchmarks/compare.cpp)
#   run.sh grid [option...]  the grid, benchmarks/results/<machine>/; options of benchmarks/grid.py. Plots need matplotlib
#                            (scripts/setup.sh --python), the other programs torch, peft, tensorly
#   run.sh gpu [option...]   backend::Cuda on this machine's GPU, benchmarks/results/gpu.json; options of Google Benchmark
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../scripts/common.sh
source scripts/common.sh

if [[ ${1:-} == gpu ]]; then
  shift
  configure cuda -DCMAKE_CUDA_ARCHITECTURES=native
  build cuda benchmark_gpu
  mkdir -p benchmarks/results
  "$project_root/build/cuda/benchmarks/benchmark_gpu" --benchmark_repetitions=5 \
    --benchmark_out=benchmarks/results/gpu.json --benchmark_out_format=json "$@"
  exit
fi

configure release
if [[ ${1:-} == grid ]]; then
  shift
  build release benchmark_cases
  python=python3
  if [[ -x $venv_dir/bin/python ]]; then python=$venv_dir/bin/python; fi
  "$python" benchmarks/grid.py "$@"
else
  build release benchmark_compare
  mkdir -p benchmarks/results
  "$project_root/build/release/benchmarks/benchmark_compare" --output benchmarks/results/ "$@"
fi
