#!/usr/bin/env bash
# check_pkg_config.sh CXX PREFIX LIBDIR: C++ programs built by what pkg-config says of the headers and of the compiled
# classes, and run.
set -euo pipefail
cxx=$1 prefix=$2 libdir=$3
export PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig:$prefix/share/pkgconfig
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run PACKAGE SOURCE
run() {
  local cflags=() libs=()
  # pkg-config quotes the spaces of a path for a shell.
  eval "cflags+=($(pkg-config --cflags "$1"))"
  eval "libs+=($(pkg-config --libs "$1"))"
  "$cxx" -std=c++20 -O0 "${cflags[@]}" -x c++ "$2" -o "$work/program" -x none "${libs[@]}"
  "$work/program"
}
cat > "$work/headers.cpp" << 'SOURCE'
#include <sparsegrad/sparsegrad.hpp>
int main() {
  sparsegrad::backend::Cpu::Context ctx(1);
  return sparsegrad::TopK::fraction(0.5, 10).k == 5 ? 0 : 1;
}
SOURCE
run sparsegrad-cpp "$work/headers.cpp"
if pkg-config --exists sparsegrad-compiled; then
  run sparsegrad-compiled "$(dirname "$0")/../../packaging/conan/test_package/example.cpp"
fi
