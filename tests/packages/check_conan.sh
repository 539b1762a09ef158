#!/usr/bin/env bash
# check_conan.sh CONAN ROOT WORK_DIR EIGEN_DIR JSON_DIR [OPTION...]: the Conan recipe makes a package that a program
# finds. Without a network: Eigen and nlohmann_json are packages of this machine's headers. OPTION: conan's, for example
# -o "sparsegrad/*:c=True".
set -euo pipefail
conan=$1 root=$2 work=$3 eigen=$4 json=$5
shift 5

rm -rf "$work"
mkdir -p "$work"
export CONAN_HOME=$work/home
"$conan" profile detect > /dev/null 2>&1
"$conan" remote disable '*' > /dev/null
SPARSEGRAD_SYSTEM_INCLUDE=$eigen "$conan" create "$root/tests/packages/conan_system" --name eigen --version 3.4.0 \
  > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
SPARSEGRAD_SYSTEM_INCLUDE=$json "$conan" create "$root/tests/packages/conan_system" --name nlohmann_json \
  --version 3.11.2 > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }

# The test package would be built inside the checkout.
cp -r "$root/packaging/conan/test_package" "$work/test_package"
"$conan" create "$root/packaging/conan" --test-folder "$work/test_package" -s compiler.cppstd=20 -s build_type=Debug \
  "$@" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
grep "a step kept 103 entries" "$work/log" || { cat "$work/log"; exit 1; }
