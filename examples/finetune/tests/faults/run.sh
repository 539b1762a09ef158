#!/usr/bin/env bash
# run.sh [BUILD]: the fault tests at full length, by hand: every kind of fault at every call that writes, and kill -9 at
# KILLS (100) random times. Prints the counts that stand in docs/robustness.md. BUILD is the program's build tree
# (build/finetune).
set -euo pipefail

here=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/../../../../build/finetune}
for test in program_faults program_kill; do
  [[ -x $build/tests/test_$test ]] || { printf 'error: %s is not built\n' "$build/tests/test_$test" >&2; exit 1; }
done
show() { grep --line-buffered -aE 'faults;|kills:|test cases|ERROR|values:|logged:|:='; }
SPARSEGRAD_FAULTS=all "$build/tests/test_program_faults" | show
SPARSEGRAD_KILLS=${KILLS:-100} "$build/tests/test_program_kill" | show
