#!/usr/bin/env bash
# test.sh [--preset NAME] [ctest option...]
# Installs what is missing, builds the preset (release) and runs all of its tests, first the library's, then those of
# the program in examples/finetune, which is built against the library as installed in build/prefix. For example
#   scripts/test.sh                       everything
#   scripts/test.sh -L contract           one area (-L finetune: the program's)
#   scripts/test.sh --preset asan -LE build
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

preset=release
while (($# > 0)); do
  case $1 in
    --preset)
      [[ $# -ge 2 ]] || die "--preset needs a name (release, debug, asan, clang)"
      preset=$2
      shift 2
      ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) break ;;
  esac
done

# An option may choose tests that one of the two projects alone has.
options=(--preset "$preset" --output-on-failure --parallel "$(build_jobs)" "$@")
if (($# > 0)); then options+=(--no-tests=ignore); fi

"$project_root/scripts/setup.sh"
configure "$preset"
build "$preset"
say "Testing the library, preset $preset"
cd "$project_root"
ctest "${options[@]}"

configure_finetune "$preset"
build_finetune "$preset"
say "Testing examples/finetune, preset $preset"
cd "$project_root/examples/finetune"
ctest "${options[@]}"
