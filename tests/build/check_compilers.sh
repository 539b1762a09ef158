#!/usr/bin/env bash
# check_compilers.sh UNIT FLAG...: every g++ from 12 on and clang++ from 14 on that is installed under its number reads
# UNIT, which includes all headers, as C++20 and as C++23 without a warning. FLAG: include paths.
set -euo pipefail
unit=$1
shift

declare -A oldest=([g++]=12 [clang++]=14)
status=0 count=0
for compiler in g++ clang++; do
  for path in $(compgen -c "$compiler-" | grep -xE "${compiler//+/\\+}-[0-9]+" | sort -u); do
    if ((${path##*-} < ${oldest[$compiler]})); then continue; fi
    for standard in c++20 c++2b; do
      count=$((count + 1))
      if ! "$path" -std=$standard -fsyntax-only -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Werror "$@" "$unit"; then
        echo "$path -std=$standard does not read the headers"
        status=1
      fi
    done
  done
done
echo "$count pairs of compiler and standard"
((count > 0)) || exit 77
exit "$status"
