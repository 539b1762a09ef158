#!/usr/bin/env bash
# test.sh [--preset NAME] [ctest option...]
# Installs what is missing, builds the preset (release) and runs all of its tests. For example
#   scripts/test.sh                       everything
#   scripts/test.sh -L contract           one area
#   scripts/test.sh --preset asan -LE build
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=release
while (($# > 0)); do
  case $1 in
    --preset)
      [[ $# -ge 2 ]] || die "--preset needs a name (release, debug, asan, clang)"
      preset=$2
      shift 2
      ;;
    -h | --help)
      sed -n '2,7s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) break ;;
  esac
done

"$project_root/scripts/setup.sh"
configure "$preset"
build "$preset"
say "Testing build/$preset"
cd "$project_root"
ctest --preset "$preset" --output-on-failure --parallel "$(build_jobs)" "$@"
