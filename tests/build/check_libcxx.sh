#!/usr/bin/env bash
# check_libcxx.sh INCLUDE_DIR EIGEN_DIR: the library compiles with clang's own standard library. Exit status 77, which
# skips the test, where that is not installed.
set -euo pipefail
include=$1 eigen=$2
compile() { clang++ -std=c++20 -stdlib=libc++ -fsyntax-only -x c++ -I "$include" -isystem "$eigen" -; }
if ! command -v clang++ > /dev/null || ! compile <<< '#include <vector>' 2> /dev/null; then
  echo "clang++ with libc++ is not installed"
  exit 77
fi
compile << 'SOURCE'
#include <sparsegrad/io/side_recipe_text.hpp>
#include <sparsegrad/sparsegrad.hpp>

void train(float* w, const float* dw) {
  sparsegrad::backend::Cpu::Context ctx;
  sparsegrad::SparseGradGroup<float> group({.warmup_steps = 1});
  const auto i = group.add_weight(ctx, {w, 8, 8}, sparsegrad::to_string(sparsegrad::parse_side_recipe("0.5")));
  group.set_gradient(i, {dw, 8, 8});
  group.step(ctx, {});
}
SOURCE
