#!/usr/bin/env bash
# check_element_types.sh CXX INCLUDE_DIR EIGEN_DIR: a class of a type that it does not know stops with a sentence that
# names the types that it knows.
set -euo pipefail

cxx=${1:?usage: check_element_types.sh CXX INCLUDE_DIR EIGEN_DIR}
include=${2:?}
eigen=${3:?}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The headers are compiled once; g++ and clang++ both take them from beside the file that -include names.
cat > "$folder/library.hpp" << 'END'
#include <sparsegrad/sparsegrad.hpp>
#include <sparsegrad/extras/core_adapter.hpp>
#include <sparsegrad/extras/sampled_gradient.hpp>
END
options=(-std=c++20 -I "$include" -isystem "$eigen")
"$cxx" "${options[@]}" -x c++-header "$folder/library.hpp" -o "$folder/library.hpp.gch"

status=0
for use in 'SparseGradLinear<int>* p; sizeof(*p)' 'SparseGradLinear<const float>* p; sizeof(*p)' \
  'SparseGradGroup<int>* p; sizeof(*p)' 'SparseGradGroup<long double>* p; sizeof(*p)' \
  'CoreGradient<int>* p; sizeof(*p)' 'GivenGradient<bfloat16>* p; sizeof(*p)' \
  'TuckerBasis<bfloat16>* p; sizeof(*p)' 'HosvdAccumulator<long>* p; sizeof(*p)' 'SparseAdam<int>* p; sizeof(*p)' \
  'CoreAdapter<int>* p; sizeof(*p)' 'FixedSupportLinear<int>* p; sizeof(*p)'; do
  echo "namespace sparsegrad { extern ${use/; /; inline const auto bytes = }; }" > "$folder/use.cpp"
  if "$cxx" "${options[@]}" -include "$folder/library.hpp" -fsyntax-only "$folder/use.cpp" > "$folder/messages" 2>&1; then
    echo "$cxx accepted $use"
    status=1
  elif ! grep -m 1 'error:' "$folder/messages" | grep -q 'float.* or .*\(double\|float16\)'; then
    echo "the first message on $use does not say what its type may be:"
    grep -m 3 'error:' "$folder/messages"
    status=1
  fi
done
[[ $status != 0 ]] || echo "classes of other types were rejected with the types that they know"
exit $status
