#!/usr/bin/env bash
# check_symbols.sh NM LIBRARY LIST: the shared library exports the names of LIST and no other.
set -euo pipefail
nm=$1 library=$2 list=$3
diff <(LC_ALL=C sort "$list") <("$nm" -D --defined-only "$library" | awk '{print $NF}' | LC_ALL=C sort) || {
  echo "left: $list; right: what the library exports. A new function belongs on the list." >&2
  exit 1
}
