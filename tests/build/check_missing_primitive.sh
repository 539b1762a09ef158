#!/usr/bin/env bash
# check_missing_primitive.sh CXX INCLUDE_DIR EIGEN_DIR: the compiler rejects a backend that lacks a primitive, and its
# message names the primitive.
set -euo pipefail

cxx=${1:?usage: check_missing_primitive.sh CXX INCLUDE_DIR EIGEN_DIR}
include=${2:?}
eigen=${3:?}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

limit=()
if "$cxx" --version | grep -q clang; then limit=(-ferror-limit=0); fi
compile() { "$cxx" -std=c++20 -fsyntax-only "${limit[@]}" -isystem "$eigen" "$@"; }

# ---- one backend for each primitive, which it hides from Reference ---------------------------------------------
primitives=(name:HasName dense_above_density:HasDenseAboveDensity memory:HasMemory
  scratch_bound:HasScratchBound zero:HasZero upload:HasUpload download:HasDownload copy:HasCopy
  widen:HasWiden round_to:HasRoundTo gemm:HasGemm gemm_batched:HasGemmBatched gram:HasGram eigh:HasEigh
  transpose:HasTranspose scale:HasScale add:HasAdd add_wide:HasAddWide add_to_rows:HasAddToRows
  column_sums:HasColumnSums squared_norm:HasSquaredNorm first_nonfinite:HasFirstNonfinite
  hadamard:HasHadamard top_k:HasTopK gather:HasGather scatter:HasScatter scatter_add:HasScatterAdd
  sampled_product:HasSampledProduct expand_rows:HasExpandRows gather_rows:HasGatherRows
  add_columns:HasAddColumns group_support:HasGroupSupport adam:HasAdam
  locate_entries:HasLocateEntries insert_entries:HasInsertEntries)

source=$folder/lacking.cpp
{
  printf '#include <sparsegrad/backend/reference.hpp>\nnamespace sparsegrad {\n'
  number=0
  for primitive in "${primitives[@]}"; do
    printf 'struct Lacking%d : backend::Reference { private: static void %s(); };\n' $number "${primitive%%:*}"
    printf 'static_assert(Backend<Lacking%d>);\n' $number
    number=$((number + 1))
  done
  # Layers in 16 bits, and a primitive that knows float alone.
  printf 'struct Lacking%d : backend::Reference { private: static void gemm_wide(); };\n' $number
  printf 'static_assert(LowPrecisionBackend<Lacking%d, bfloat16>);\n' $number
  number=$((number + 1))
  printf 'struct Lacking%d : backend::Reference {\n' $number
  printf '  template <std::same_as<float> T> static void scale(Context&, T, MatrixView<T>);\n};\n'
  printf 'static_assert(Backend<Lacking%d>);\n}\n' $number
} > "$source"
primitives+=(gemm_wide:HasGemmWide double:HasScale)

if compile -I "$include" "$source" > "$folder/messages" 2>&1; then
  echo "$cxx accepted backends that lack a primitive"
  exit 1
fi
# Each failed assertion begins a block of messages.
awk -v folder="$folder" '/error: static[ _]assert/ { ++block } { print > (folder "/block" block + 0) }' "$folder/messages"
status=0
for number in "${!primitives[@]}"; do
  block=$folder/block$((number + 1))
  name=${primitives[$number]%%:*}
  concept=${primitives[$number]##*:}
  if ! grep -q "$concept" "$block" 2> /dev/null || ! grep -qw "$name" "$block"; then
    printf 'the message on a backend without %s names neither it nor %s:\n' "$name" "$concept"
    cat "$block" 2> /dev/null || echo "(no message)"
    status=1
  fi
done

# ---- a primitive taken out of Cpu, in a copy of the headers -------------------------------------------------------
cp -r "$include" "$folder/include"
sed -i 's/static void gather_rows(/static void other_rows(/' "$folder/include/sparsegrad/backend/host/kernels.hpp"
printf '#include <sparsegrad/backend/cpu.hpp>\n' > "$folder/cpu.cpp"
compile -I "$include" "$folder/cpu.cpp"
if compile -I "$folder/include" "$folder/cpu.cpp" > "$folder/messages" 2>&1; then
  echo "$cxx accepted backend::Cpu without gather_rows"
  status=1
elif ! grep -q HasGatherRows "$folder/messages"; then
  echo "the message on backend::Cpu without gather_rows does not name it:"
  cat "$folder/messages"
  status=1
fi

[[ $status != 0 ]] || echo "${#primitives[@]} backends that lack a primitive were rejected by name"
exit $status
