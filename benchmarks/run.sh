#!/usr/bin/env bash
# Builds the benchmarks and writes this machine's page of results, benchmarks/results/<machine>.md. Takes some minutes;
# the machine should have nothing else to do. Options go to benchmark_compare (see the head of benchmarks/compare.cpp).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../scripts/common.sh
source scripts/common.sh

configure release
build release benchmark_compare
mkdir -p benchmarks/results
"$project_root/build/release/benchmarks/benchmark_compare" --output benchmarks/results/ "$@"
