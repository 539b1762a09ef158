#!/usr/bin/env bash
# Builds the benchmarks and writes this machine's pages of results; the machine should have nothing else to do.
#   run.sh [option...]       layer steps against the dense one, on the terminal; some minutes; options of benchmark_compare
#                            (see the head of benchmarks/compare.cpp)
#   run.sh grid [option...]  the grid, benchmarks/results/<machine>/; options of benchmarks/grid.py
#   run.sh processor [--quick] [option...]
#                            every figure of this processor and one page about it, benchmarks/results/<processor>.md: products,
#                            whole BERT steps in float and bf16 against torch, parts, the grid, other programs, targets. --quick
#                            takes under twenty minutes on two idle cores after the build, without it two hours; options of
#                            benchmarks/report.py (--model DIR --data DIR: a real BERT and CoLA too)
#   run.sh llm --model FILE --data FILE [option...]
#                            a language model's step and generation against transformers, peft and llama.cpp, some ten
#                            minutes after the build, benchmarks/results/<machine>/llm.md; options of benchmarks/llm_step.py
#   run.sh gpu [option...]   backend::Cuda on this machine's GPU, benchmarks/results/gpu.json; options of Google Benchmark
# Plots need matplotlib, the comparison with other programs torch, transformers, peft and tensorly in .venv (scripts/setup.sh
# --peers; or name a Python that has them in PYTHON); what is missing is left out and said.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
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
python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  if [[ -x $venv_dir/bin/python ]]; then python=$venv_dir/bin/python; fi
fi
case ${1:-} in
  grid)
    build release benchmark_cases
    "$python" benchmarks/grid.py "${@:2}"
    ;;
  processor)
    targets=(benchmark_cases sparsegrad-bench)
    if [[ " $* " != *" --quick "* ]]; then targets+=(benchmark_compare benchmark_serial_share); fi
    build release "${targets[@]}"
    configure_finetune release
    build_finetune release sparsegrad-glue
    "$python" -B benchmarks/report.py "${@:2}"
    ;;
  llm)
    build release benchmark_cases
    configure_finetune release
    build_finetune release sparsegrad-llm
    "$python" -B benchmarks/llm_step.py "${@:2}"
    ;;
  *)
    build release benchmark_compare
    build/release/benchmarks/benchmark_compare "$@"
    ;;
esac
