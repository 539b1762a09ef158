#!/usr/bin/env bash
# run.sh PREFIX BUILD_DIR PROGRAMS: builds the Python package in BUILD_DIR with the C library installed in PREFIX,
# installs it into the virtual environment .venv and tests it there, beside the programs of tests/c in PROGRAMS. Exit
# status 77 (skipped) where Python's headers or PyPI are missing. A second run compiles what has changed.
set -euo pipefail
# shellcheck source=../../scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/common.sh"
prefix=$1 build_dir=$2
export SPARSEGRAD_C_PROGRAMS=$3  # for test_group.py
python=$venv_dir/bin/python

skip() {
  echo "skipped: $*" >&2
  exit 77
}

if [[ ! -x $python ]]; then
  python3 -m venv "$venv_dir" || skip "python3 -m venv does not work (Debian: python3-venv)"
fi
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
[[ -f $headers/Python.h ]] || skip "$headers/Python.h is not there (Debian: python3-dev)"
if ! "$python" -c 'import nanobind, scikit_build_core, pytest, numpy' 2> /dev/null; then
  "$python" -m pip install --quiet nanobind scikit-build-core pytest numpy ||
    skip "nanobind, scikit-build-core, pytest and numpy could not be installed from PyPI"
fi

# The launcher is that of the library's own build.
if command -v ccache > /dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
CMAKE_BUILD_PARALLEL_LEVEL=$(build_jobs) "$python" -m pip install --quiet --no-build-isolation --no-deps \
  "$project_root/python" -C build-dir="$build_dir" -C cmake.define.SPARSEGRAD_PREFIX="$prefix"
# The source distribution has the library beside the package, all that its CMake files ask for.
(
  rm -rf "$build_dir/sdist"
  mkdir -p "$build_dir/sdist"
  cd "$project_root/python"
  file=$("$python" -c 'import sys, scikit_build_core.build as b; print(b.build_sdist(sys.argv[1]))' "$build_dir/sdist" |
    tail -n 1)
  cd "$build_dir/sdist"
  tar xf "$file" --strip-components 1
  for part in CMakeLists.txt cmake include src; do diff -r "$project_root/$part" "library/$part"; done
  cmake -S . -B build -G Ninja -DPython_EXECUTABLE="$python" -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" > log ||
    { cat log; exit 1; }
)
cd "$project_root/python/tests"
"$python" -m pytest -q
