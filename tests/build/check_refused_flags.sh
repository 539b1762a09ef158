#!/usr/bin/env bash
# check_refused_flags.sh CXX INCLUDE_DIR EIGEN_DIR: flags that the library cannot work with end in one clear error
# (two lines: the text, and the header that is not there), whatever header comes first.
set -euo pipefail
cxx=$1 include=$2 eigen=$3

status=0
# check FLAGS TEXT HEADER
check() {
  local output errors
  # shellcheck disable=SC2086
  if output=$(echo "#include <sparsegrad/$3>" | "$cxx" -x c++ $1 -fsyntax-only -I "$include" -isystem "$eigen" - 2>&1); then
    echo "$3 compiles with $1"
    status=1
    return
  fi
  errors=$(grep -cE '(^|[: ])(fatal )?error:' <<< "$output")
  if ((errors > 2)) || ! grep -qF "$2" <<< "$output"; then
    echo "$3 with $1: $errors errors, expected two that say \"$2\":"
    head -n 20 <<< "$output"
    status=1
  fi
}
for header in sparsegrad.hpp core/view.hpp backend/cpu.hpp backend/reference.hpp sparse_grad_group.hpp io/state_file.hpp \
  extras/core_adapter.hpp; do
  check -std=c++17 'sparsegrad needs C++20' "$header"
  check '-std=c++20 -fno-exceptions' 'sparsegrad reports errors by exceptions' "$header"
done
exit "$status"
