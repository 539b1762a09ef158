#!/usr/bin/env bash
# test_gpu.sh: library, program and tests on this machine's NVIDIA GPU, and a page of what was found,
# benchmarks/results/<gpu>.md with machine, versions, commands and figures.
#   test_gpu.sh          builds, then runs
#   test_gpu.sh build    builds alone; needs no GPU. CMAKE_CUDA_ARCHITECTURES: SPARSEGRAD_GPU_ARCHITECTURES, or native where
#                        there is a GPU, or 90
#   test_gpu.sh run      runs what is built: the tests labelled gpu, the benchmarks, the tests under every tool of
#                        compute-sanitizer. Nothing begins after SPARSEGRAD_GPU_SECONDS (780), and what was left out is
#                        named: the whole fits 15 minutes of a machine.
# Ends with 1 where a test failed.
set -euo pipefail
# shellcheck source=../../scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

limit=${SPARSEGRAD_GPU_SECONDS:-780}
results=$project_root/benchmarks/results
tests=$project_root/build/cuda/tests/gpu
program=$project_root/build/finetune-cuda/sparsegrad-glue
program_tests=$project_root/build/finetune-cuda/tests/gpu
of_program=(narrow_engine engine decoder_narrow decoder train decoder_train)
page=""
logs=$project_root/build/cuda/gpu_logs
log_of_last=""
failed=0

has_gpu() { nvidia-smi --list-gpus 2> /dev/null | grep -q .; }

build_all() {
  command -v nvcc > /dev/null || die "nvcc is missing: install the CUDA Toolkit, and put its bin folder on PATH"
  local architectures=90
  if has_gpu; then architectures=native; fi
  architectures=${SPARSEGRAD_GPU_ARCHITECTURES:-$architectures}
  configure cuda "-DCMAKE_CUDA_ARCHITECTURES=$architectures"
  build cuda tests_gpu benchmark_gpu
  configure_finetune cuda "-DCMAKE_CUDA_ARCHITECTURES=$architectures"
  build_finetune cuda tests_gpu sparsegrad-glue sparsegrad-llm
}

# attempt SECONDS NAME COMMAND...: one line of the page's table; output goes to NAME's log.
attempt() {
  local most=$1 name=$2 log=$logs/${2//[^A-Za-z0-9_]/_}.txt begin=$SECONDS result=0
  shift 2
  log_of_last=$log
  : > "$log"
  if ((SECONDS >= limit)); then
    echo "| $name | left out: no time | |" >> "$page"
    return
  fi
  say "$name"
  timeout "$most" "$@" > "$log" 2>&1 || result=$?
  local verdict=passed
  case $result in
    0) ;;
    77) verdict="skipped: no device" ;;
    124) verdict="cut off after $most s" ;;
    *)
      verdict="**failed** ($result)"
      failed=1
      tail -n 40 "$log"
      ;;
  esac
  echo "| $name | $verdict | $((SECONDS - begin)) |" >> "$page"
}

run_all() {
  has_gpu || die "nvidia-smi shows no GPU here"
  [[ -x $tests/test_gpu_context ]] || die "nothing is built: tests/gpu/test_gpu.sh build"
  local gpu name
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  name=$(tr '[:upper:] ' '[:lower:]-' <<< "$gpu" | tr -cd 'a-z0-9-')
  mkdir -p "$results"
  page=$results/$name.md
  mkdir -p "$logs"
  {
    echo "# $gpu"
    echo
    echo "Written by \`tests/gpu/test_gpu.sh\` on $(date --iso-8601)."
    echo
    echo "| | |"
    echo "|---|---|"
    echo "| GPU, driver, memory | $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1) |"
    echo "| clocks (graphics, memory; most) | $(nvidia-smi --query-gpu=clocks.gr,clocks.mem,clocks.max.gr,clocks.max.mem --format=csv,noheader | head -n 1) |"
    echo "| CUDA Toolkit | $(nvcc --version 2> /dev/null | grep -o 'release.*' || echo "as built; not on this machine") |"
    echo "| CPU, system | $(grep -m 1 -o 'model name.*' /proc/cpuinfo | cut -d : -f 2 | xargs), $(uname -sr) |"
    echo "| commit | $(git -C "$project_root" describe --always --dirty 2> /dev/null || echo unknown) |"
    echo
    echo "## Tests"
    echo
    echo "| | result | s |"
    echo "|---|---|---|"
  } > "$page"

  # No kernel is to be loaded for the first time inside a capture.
  export CUDA_MODULE_LOADING=EAGER
  local test tool
  for test in context low_precision_primitives low_precision_layer method; do
    if [[ -x $tests/test_gpu_$test ]]; then attempt 120 "test_gpu_$test" "$tests/test_gpu_$test"; fi
  done
  for test in "${of_program[@]}"; do
    if [[ -x $program_tests/test_gpu_$test ]]; then attempt 120 "test_gpu_$test" "$program_tests/test_gpu_$test"; fi
  done
  # CUDA_LAUNCH_BLOCKING: the contract's tests read on the host without waiting (tests/gpu/managed_memory.cu). Last, as all
  # its memory is managed.
  if [[ -x $tests/test_gpu_contract ]]; then
    attempt 120 "test_gpu_contract" env CUDA_LAUNCH_BLOCKING=1 "$tests/test_gpu_contract"
  fi

  # Before the sanitizers, which take whatever time is left. One call a group, so that one that fails keeps the others.
  local figures=$logs/figures.txt bench=$project_root/build/cuda/benchmarks/benchmark_gpu
  : > "$figures"
  local options=(--benchmark_min_time=0.2 --benchmark_repetitions=3 --benchmark_report_aggregates_only=true
    --benchmark_counters_tabular=true)
  if [[ -x $bench ]]; then
    local group
    for group in '^(top_k|adam_of_24)' '^optimizer_step_of_24' '^accumulate_and_fit' '^mlp_step_of_24' '^layer_step' \
      '^roberta_large'; do
      attempt 90 "benchmark_gpu $group" "$bench" "--benchmark_filter=$group" "${options[@]}"
      cat "$log_of_last" >> "$figures"
    done
  fi

  # The program's whole step, one call a size.
  local step_pages=()
  if command -v python3 > /dev/null; then
    local step=$project_root/benchmarks/gpu_step.py
    rm -f "$logs"/gpu_step_*/gpu_step.md
    attempt 180 "gpu_step.py, BERT-base" python3 "$step" --program "$program" --rounds 1 --output "$logs/gpu_step_base"
    attempt 90 "gpu_step.py, BERT-large" python3 "$step" --program "$program" --rounds 1 --steps 12 --size large \
      --only "ft, bf16" --only "sparse, one side of rank 64, bf16" --output "$logs/gpu_step_large"
    step_pages=("$logs"/gpu_step_*/gpu_step.md)
  else
    echo "| gpu_step.py | left out: no python3 | |" >> "$page"
  fi

  if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck synccheck initcheck; do
      local checks=(--tool "$tool" --error-exitcode 1)
      # A test asks for more memory than there is: a call that is to fail is no error.
      if [[ $tool == memcheck ]]; then checks+=(--report-api-errors no); fi
      local binary
      for binary in "$program_tests"/test_gpu_{narrow_engine,decoder_narrow,engine,decoder} \
        "$tests"/test_gpu_{context,low_precision_primitives,method,low_precision_layer,contract}; do
        [[ -x $binary ]] || continue
        # Managed memory counts as never written where the host has written it.
        if [[ $tool == initcheck && $binary == */test_gpu_contract ]]; then continue; fi
        attempt 120 "compute-sanitizer $tool: ${binary##*/}" env CUDA_LAUNCH_BLOCKING=1 \
          compute-sanitizer "${checks[@]}" "$binary"
      done
    done
  else
    echo "| compute-sanitizer | left out: not on PATH | |" >> "$page"
  fi

  {
    echo
    echo "## Times"
    echo
    echo "CUDA events, warm, L2 flushed before each; \`build/cuda/benchmarks/benchmark_gpu --benchmark_filter=GROUP ${options[*]}\`." | fold -s -w 100 | sed "s/ *$//"
    echo
    echo '```'
    grep -E '^(Benchmark|-----|[a-z_0-9]+/)' "$figures" | grep -vE '_(stddev|cv)' || true
    echo '```'
    local step_page
    for step_page in "${step_pages[@]}"; do
      [[ -e $step_page ]] || continue
      echo
      sed 's/^# /## /' "$step_page"
    done
  } >> "$page"
  say "written: $page ($SECONDS s)"
  return "$failed"
}

case ${1:-all} in
  build) build_all ;;
  run) run_all ;;
  all)
    has_gpu || die "nvidia-smi shows no GPU here (tests/gpu/test_gpu.sh build needs none)"
    build_all
    SECONDS=0
    run_all
    ;;
  *) die "expected build, run or nothing, found '$1'" ;;
esac
