#!/usr/bin/env bash
# test_gpu.sh: library, programs and tests on an NVIDIA GPU, and a page of what was found: machine, versions, commands and
# figures. What has ended is on the page, and its log in the folder, at once: whoever is cut off loses what was under way.
#   test_gpu.sh          builds for the GPU at hand, then runs; the page is benchmarks/results/<gpu>.md
#   test_gpu.sh build    builds alone; needs no GPU. CMAKE_CUDA_ARCHITECTURES: SPARSEGRAD_GPU_ARCHITECTURES, or native where
#                        there is a GPU, or 90
#   test_gpu.sh bundle FILE.tar.xz
#                        packs what is built, with the libraries that a machine with a driver and CUDA's libraries alone
#                        lacks, the goldens and this script. Builds for any processor of the same kind.
#   test_gpu.sh run [--stage 1|2] [--output FOLDER]
#                        runs what is built, or what is unpacked beside this script. Nothing begins after
#                        SPARSEGRAD_GPU_SECONDS (780; stage 1: 280, stage 2: 230), and what was left out is named.
#                        Stage 1: the tests, two sanitizers on the kernels of warps, the first figures. Stage 2: whole
#                        steps, the optimizer's, the contract. Without: all, and every sanitizer.
# CUDA's libraries may be those of Python packages (site-packages/nvidia/*/lib), which are found by python3. Ends with 1
# where a test failed.
set -euo pipefail

here=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
of_library=(context low_precision_primitives low_precision_layer method)
of_program=(narrow_engine engine decoder_narrow decoder train decoder_train)

if [[ -d $here/bin ]]; then
  project_root=$here
  bin=$here/bin
  say() { printf '\n== [%s s] %s\n' "$SECONDS" "$*"; }
  die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
  }
else
  # shellcheck source=../../scripts/common.sh
  source "$here/../../scripts/common.sh"
  bin=""
fi
benchmarks=$project_root/benchmarks
failed=0

has_gpu() { nvidia-smi --list-gpus 2> /dev/null | grep -q .; }

# program_at NAME: where it lies, built or unpacked.
program_at() {
  if [[ -n $bin ]]; then
    echo "$bin/$1"
    return
  fi
  local folder
  for folder in build/cuda/tests/gpu build/cuda/benchmarks build/finetune-cuda/tests/gpu build/finetune-cuda; do
    if [[ -x $project_root/$folder/$1 ]]; then
      echo "$project_root/$folder/$1"
      return
    fi
  done
  echo "$project_root/build/cuda/$1"
}

build_all() {
  command -v nvcc > /dev/null || die "nvcc is missing: install the CUDA Toolkit, and put its bin folder on PATH"
  local architectures=90
  if has_gpu; then architectures=native; fi
  architectures=${SPARSEGRAD_GPU_ARCHITECTURES:-$architectures}
  configure cuda "-DCMAKE_CUDA_ARCHITECTURES=$architectures" "$@"
  build cuda tests_gpu benchmark_gpu
  configure_finetune cuda "-DCMAKE_CUDA_ARCHITECTURES=$architectures" "$@"
  build_finetune cuda tests_gpu sparsegrad-glue sparsegrad-llm
}

# pack FILE: what is built.
pack() {
  local file=$1 folder name library
  folder=$(mktemp -d)
  mkdir -p "$folder/bundle/bin" "$folder/bundle/lib" "$folder/bundle/golden" "$folder/bundle/benchmarks"
  for name in "${of_library[@]/#/test_gpu_}" test_gpu_contract "${of_program[@]/#/test_gpu_}" benchmark_gpu sparsegrad-glue \
    sparsegrad-llm; do
    [[ -x $(program_at "$name") ]] || die "$name is not built: tests/gpu/test_gpu.sh build"
    cp "$(program_at "$name")" "$folder/bundle/bin/$name"
    strip "$folder/bundle/bin/$name"
  done
  # The system's own and the driver's stay there; CUDA's are too large to carry.
  for library in $(ldd "$folder/bundle/bin/"* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u); do
    case ${library##*/} in
      ld-linux* | libc.so* | libm.so* | libdl.so* | libpthread.so* | librt.so* | libcuda.so* | libcud* | libcublas* | libcusolver* | \
        libcusparse* | libnvJitLink*) ;;
      *) cp -L "$library" "$folder/bundle/lib/" ;;
    esac
  done
  cp -r "$project_root/examples/finetune/tests/golden/bert_tiny" "$project_root/examples/finetune/tests/golden/decoder_tiny" \
    "$folder/bundle/golden/"
  cp "$benchmarks"/{gpu_step,random_bert,case_program}.py "$folder/bundle/benchmarks/"
  cp "${BASH_SOURCE[0]}" "$folder/bundle/test_gpu.sh"
  git -C "$project_root" describe --always --dirty > "$folder/bundle/commit.txt" 2> /dev/null || echo unknown > "$folder/bundle/commit.txt"
  tar -C "$folder" -cJf "$file" bundle
  rm -rf "$folder"
  say "written: $file ($(du -h "$file" | cut -f 1)); unpack it and run bundle/test_gpu.sh run --stage 1 --output FOLDER"
}

# write_page: from what there is.
write_page() {
  {
    cat "$output"/machine.md
    printf '\n## Tests\n\n| | result | s |\n|---|---|---|\n'
    cat "$output"/rows_*.md 2> /dev/null || true
    local figures step_page
    if compgen -G "$output/figures_*.txt" > /dev/null; then
      # shellcheck disable=SC2016
      printf '\n## Times\n\nCUDA events, warm, L2 flushed before each; `benchmark_gpu --benchmark_filter=GROUP`.\n\n```\n'
      for figures in "$output"/figures_*.txt; do
        grep -hE '^(Benchmark|-----|[a-z_0-9]+/)' "$figures" | grep -vE '_(stddev|cv)' || true
      done
      printf '```\n'
    fi
    for step_page in "$output"/gpu_step_*/gpu_step.md; do
      [[ -e $step_page ]] || continue
      echo
      sed 's/^# /## /' "$step_page"
    done
  } > "$page.part"
  mv "$page.part" "$page"
}

# attempt SECONDS NAME COMMAND...: one line of the page's table; output goes to NAME's log.
attempt() {
  local most=$1 name=$2 log=$output/${2//[^A-Za-z0-9_]/_}.txt begin=$SECONDS result=0
  shift 2
  log_of_last=$log
  : > "$log"
  if ((SECONDS >= limit)); then
    echo "| $name | left out: no time | |" >> "$rows"
    write_page
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
  echo "| $name | $verdict | $((SECONDS - begin)) |" >> "$rows"
  write_page
}

# run_test SECONDS NAME [VARIABLE=VALUE...]: one of the test programs, in a folder with the goldens.
run_test() {
  local most=$1 name=$2 program
  shift 2
  program=$(program_at "test_gpu_$name")
  if [[ -x $program ]]; then
    attempt "$most" "test_gpu_$name" env "$@" "$program"
  else
    echo "| test_gpu_$name | left out: not built | |" >> "$rows"
  fi
}

# measure SECONDS GROUP [OPTION...]: figures of benchmark_gpu.
measure() {
  local most=$1 group=$2 program
  shift 2
  program=$(program_at benchmark_gpu)
  [[ -x $program ]] || return 0
  attempt "$most" "benchmark_gpu $group" "$program" "--benchmark_filter=$group" --benchmark_counters_tabular=true "$@"
  cp "$log_of_last" "$output/figures_${group//[^a-z0-9_]/_}.txt"
  write_page
}

# step SECONDS NAME OPTION...: the whole step of a program.
step() {
  local most=$1 name=$2
  shift 2
  if ! command -v python3 > /dev/null; then
    echo "| gpu_step.py, $name | left out: no python3 | |" >> "$rows"
    return
  fi
  attempt "$most" "gpu_step.py, $name" python3 "$benchmarks/gpu_step.py" --program "$(program_at sparsegrad-glue)" --rounds 1 \
    --output "$output/gpu_step_${name//[^A-Za-z0-9]/_}" "$@"
}

# sanitize SECONDS TOOL NAME [CASE]: a test program under compute-sanitizer.
sanitize() {
  local most=$1 tool=$2 name=$3 program checks=(--tool "$2" --error-exitcode 1)
  program=$(program_at "test_gpu_$name")
  [[ -x $program ]] || return 0
  # A test asks for more memory than there is: a call that is to fail is no error.
  if [[ $tool == memcheck ]]; then checks+=(--report-api-errors no); fi
  local cases=()
  if (($# > 3)); then cases=("--test-case=$4"); fi
  attempt "$most" "compute-sanitizer $tool: test_gpu_$name ${4:-}" env CUDA_LAUNCH_BLOCKING=1 \
    compute-sanitizer "${checks[@]}" "$program" "${cases[@]}"
}

# prepare: libraries, the machine's part of the page, the folder in which tests run.
prepare() {
  local gpu name folders library missing=""
  folders=$(python3 -c 'import glob, site
print(":".join(f for s in site.getsitepackages() + [site.getusersitepackages()] for f in glob.glob(s + "/nvidia/*/lib")))' 2> /dev/null || true)
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${folders:+:$folders}${bin:+:$here/lib}
  # No kernel is to be loaded for the first time inside a capture.
  export CUDA_MODULE_LOADING=EAGER
  for library in $(ldd "$(program_at test_gpu_context)" 2> /dev/null | awk '/not found/ {print $1}'); do
    missing+=" $library"
  done
  [[ -z $missing ]] || die "these libraries are missing:$missing (CUDA's: the Toolkit, or python3 -m pip install nvidia-cublas nvidia-cusolver)"
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  name=$(tr '[:upper:] ' '[:lower:]-' <<< "$gpu" | tr -cd 'a-z0-9-')
  mkdir -p "$output"
  page=${page:-$output/$name.md}
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
    echo "| commit | $(cat "$project_root/commit.txt" 2> /dev/null || git -C "$project_root" describe --always --dirty 2> /dev/null || echo unknown) |"
  } > "$output/machine.md"
  rows=$output/rows_${stage:-0}.md
  : > "$rows"
  # The program's tests look for golden/ where they run.
  mkdir -p "$output/run"
  ln -sfn "$goldens" "$output/run/golden"
  cd "$output/run"
  write_page
}

stage_1() {
  local test
  for test in context low_precision_primitives narrow_engine decoder_narrow engine decoder low_precision_layer method train \
    decoder_train; do
    run_test 40 "$test"
  done
  if command -v compute-sanitizer > /dev/null; then
    sanitize 30 racecheck narrow_engine "*goldens*"
    sanitize 30 racecheck decoder_narrow "*16 bits*"
    sanitize 20 synccheck decoder_narrow "*16 bits*"
    sanitize 30 memcheck context "*many blocks share*"
  fi
  measure 40 '^(top_k|adam_of_24)' --benchmark_min_time=0.05
}

stage_2() {
  step 100 "BERT-base" --steps 12 --only "ft, bf16" --only "sparse, one side of rank 64, bf16"
  measure 40 '^optimizer_step_of_24' --benchmark_min_time=0.05
  if command -v ncu > /dev/null; then
    attempt 60 "ncu" ncu --clock-control none --kernel-name 'regex:block_kernel' --launch-count 40 \
      "$(program_at test_gpu_narrow_engine)" "--test-case=*goldens*"
  fi
  # CUDA_LAUNCH_BLOCKING: the contract's tests read on the host without waiting (tests/gpu/managed_memory.cu). Last, as all
  # its memory is managed.
  run_test 90 contract CUDA_LAUNCH_BLOCKING=1
}

everything() {
  local test tool group figures=(--benchmark_min_time=0.2 --benchmark_repetitions=3 --benchmark_report_aggregates_only=true)
  for test in "${of_library[@]}" "${of_program[@]}"; do
    run_test 120 "$test"
  done
  run_test 120 contract CUDA_LAUNCH_BLOCKING=1
  # Before the sanitizers, which take whatever time is left. One call a group, so that one that fails keeps the others.
  for group in '^(top_k|adam_of_24)' '^optimizer_step_of_24' '^accumulate_and_fit' '^mlp_step_of_24' '^layer_step' '^roberta_large'; do
    measure 90 "$group" "${figures[@]}"
  done
  step 180 "BERT-base"
  step 90 "BERT-large" --steps 12 --size large --only "ft, bf16" --only "sparse, one side of rank 64, bf16"
  if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck synccheck initcheck; do
      for test in narrow_engine decoder_narrow engine decoder context low_precision_primitives method low_precision_layer; do
        sanitize 120 "$tool" "$test"
      done
      # What the host wrote to managed memory counts as never written.
      if [[ $tool != initcheck ]]; then sanitize 120 "$tool" contract; fi
    done
  else
    echo "| compute-sanitizer | left out: not on PATH | |" >> "$rows"
  fi
}

run_all() {
  stage="" page="" output=""
  while (($# > 0)); do
    case $1 in
      --stage)
        stage=${2:-}
        [[ $stage == 1 || $stage == 2 ]] || die "--stage is '$stage', expected 1 or 2"
        shift 2
        ;;
      --output)
        output=${2:?--output: a folder is missing}
        shift 2
        ;;
      *) die "expected --stage 1|2 or --output FOLDER, found '$1'" ;;
    esac
  done
  has_gpu || die "nvidia-smi shows no GPU here"
  [[ -x $(program_at test_gpu_context) ]] || die "nothing is built: tests/gpu/test_gpu.sh build"
  goldens=$project_root/examples/finetune/tests/golden
  if [[ -n $bin ]]; then goldens=$here/golden; fi
  if [[ -z $output ]]; then
    output=$project_root/build/gpu_logs
    mkdir -p "$benchmarks/results"
    page=$benchmarks/results/$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9-').md
  fi
  mkdir -p "$output"
  output=$(cd "$output" && pwd)
  case $stage in
    1) limit=${SPARSEGRAD_GPU_SECONDS:-280} ;;
    2) limit=${SPARSEGRAD_GPU_SECONDS:-230} ;;
    *) limit=${SPARSEGRAD_GPU_SECONDS:-780} ;;
  esac
  SECONDS=0
  prepare
  case $stage in
    1) stage_1 ;;
    2) stage_2 ;;
    *) everything ;;
  esac
  write_page
  say "written: $page ($SECONDS s)"
  return "$failed"
}

case ${1:-all} in
  build) build_all ;;
  bundle)
    [[ -n ${2:-} ]] || die "bundle: the file to write is missing, such as gpu_tests.tar.xz"
    build_all -DSPARSEGRAD_NATIVE_ARCH=OFF
    pack "$2"
    ;;
  run)
    shift
    run_all "$@"
    ;;
  all)
    has_gpu || die "nvidia-smi shows no GPU here (tests/gpu/test_gpu.sh build needs none)"
    build_all
    run_all
    ;;
  *) die "expected build, bundle, run or nothing, found '$1'" ;;
esac
