#!/usr/bin/env bash
# test_gpu_test.sh: test_gpu.sh on what is unpacked from a bundle, with programs that stand for the tests and tools: what it
# runs in which stage, that its page is whole whenever it is cut off, and what it says of failures.
set -euo pipefail

script=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/test_gpu.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bundle=$folder/bundle
mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/golden" "$bundle/benchmarks" "$folder/tools"
cp "$script" "$bundle/test_gpu.sh"
echo abc123 > "$bundle/commit.txt"

fail() {
  echo "failed: $*" >&2
  exit 1
}
# program FILE TEXT: a program of these lines.
program() {
  printf '#!/bin/sh\n%s\n' "$2" > "$1"
  chmod +x "$1"
}
# shellcheck disable=SC2016
program "$folder/tools/nvidia-smi" 'case "$*" in *--list-gpus*) echo "GPU 0";; *query-gpu=name*) echo "Test GPU 9";; *) echo 1;; esac'
# shellcheck disable=SC2016
program "$folder/tools/compute-sanitizer" 'for last; do :; done; echo "$@"'
program "$folder/tools/ncu" 'echo ncu'
for name in context low_precision_primitives low_precision_layer method narrow_engine engine decoder_narrow decoder train \
  decoder_train contract; do
  program "$bundle/bin/test_gpu_$name" "test -d golden && echo passed"
done
program "$bundle/bin/benchmark_gpu" 'echo "top_k/2359296 25 us"'
program "$bundle/bin/sparsegrad-glue" 'exit 0'
printf 'import sys, pathlib\nout = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])\nout.mkdir(parents=True)\n(out / "gpu_step.md").write_text("# Steps\\n")\n' \
  > "$bundle/benchmarks/gpu_step.py"
export PATH=$folder/tools:$PATH
run() { bash "$bundle/test_gpu.sh" run "$@" > "$folder/log.txt" 2>&1; }
page=$folder/out/test-gpu-9.md

run --stage 1 --output "$folder/out" || fail "stage 1: $(cat "$folder/log.txt")"
for text in "# Test GPU 9" "| commit | abc123 |" "| test_gpu_context | passed |" "| test_gpu_decoder_narrow | passed |" \
  "compute-sanitizer racecheck: test_gpu_narrow_engine" "top_k/2359296 25 us"; do
  grep -qF "$text" "$page" || fail "the page of stage 1 lacks '$text'"
done
if grep -q test_gpu_contract "$page"; then fail "the contract is of stage 2"; fi
run --stage 2 --output "$folder/out" || fail "stage 2: $(cat "$folder/log.txt")"
for text in "| test_gpu_contract | passed |" "| test_gpu_context | passed |" "## Steps"; do
  grep -qF "$text" "$page" || fail "the page of both stages lacks '$text'"
done

# A test that fails, and a script that is killed while another one runs.
program "$bundle/bin/test_gpu_context" 'echo broken; exit 3'
if run --stage 1 --output "$folder/failed"; then fail "a test failed, and the script did not"; fi
grep -qF "| test_gpu_context | **failed** (3) |" "$folder/failed/test-gpu-9.md" || fail "the failure is not on the page"
program "$bundle/bin/test_gpu_narrow_engine" "echo \$\$ > '$folder/process'; mv '$folder/process' '$folder/began'; exec sleep 600"
bash "$bundle/test_gpu.sh" run --stage 1 --output "$folder/cut" > "$folder/log.txt" 2>&1 &
cut=$!
until [[ -e $folder/began ]]; do sleep 0.2; done
kill "$cut"
wait "$cut" || true
kill "$(cat "$folder/began")"
grep -qF "| test_gpu_low_precision_primitives | passed |" "$folder/cut/test-gpu-9.md" || fail "what had ended is not on the page"
if grep -q "test_gpu_narrow_engine" "$folder/cut/test-gpu-9.md"; then fail "what was under way is on the page"; fi
SPARSEGRAD_GPU_SECONDS=0 run --stage 1 --output "$folder/none" || fail "without time: $(cat "$folder/log.txt")"
grep -qF "| test_gpu_context | left out: no time | |" "$folder/none/test-gpu-9.md" || fail "what was left out is not named"

# Refusals.
refuses() {
  local text=$1
  shift
  if bash "$bundle/test_gpu.sh" "$@" > "$folder/log.txt" 2>&1; then fail "$* was not refused"; fi
  grep -qF -- "$text" "$folder/log.txt" || fail "$*: $(cat "$folder/log.txt")"
}
refuses "--stage is '3', expected 1 or 2" run --stage 3
refuses "expected --stage 1|2 or --output FOLDER, found 'x'" run x
refuses "expected build, bundle, run or nothing, found 'x'" x
program "$folder/tools/nvidia-smi" 'exit 9'
refuses "nvidia-smi shows no GPU here" run --stage 1 --output "$folder/out"
echo "test_gpu.sh: all as expected"
