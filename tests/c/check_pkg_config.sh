#!/usr/bin/env bash
# check_pkg_config.sh CC LIBDIR SOURCE shared|static: a C program built by what pkg-config says, and run.
set -euo pipefail
cc=$1 libdir=$2 source=$3 linked=$4
export PKG_CONFIG_PATH=$libdir/pkgconfig
program=$(mktemp)
trap 'rm -f "$program"' EXIT
# pkg-config quotes the spaces of a path for a shell.
cflags=() libs=()
eval "cflags+=($(pkg-config --cflags sparsegrad))"
if [[ $linked == static ]]; then
  # `-l:` because -lsparsegrad prefers the shared one.
  eval "libs+=($(pkg-config --libs --static sparsegrad | sed 's/-lsparsegrad/-l:libsparsegrad.a/'))"
else
  eval "libs+=($(pkg-config --libs sparsegrad))"
fi
"$cc" -std=c11 "${cflags[@]}" "$source" -o "$program" "${libs[@]}" -lm
LD_LIBRARY_PATH=$libdir "$program"
