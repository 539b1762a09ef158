#!/usr/bin/env bash
# check_layering.sh DIR: the rules that hold between the headers in DIR (include/sparsegrad).
#   1. Algorithm headers, those at the top, in core/ and in io/, name no backend's library.
#   2. Eigen's, CBLAS's, oneDNN's, json's and MPI's headers are included only where they belong.
#   3. Macros carry the prefix SPARSEGRAD_.
#   4. Nothing sets process-wide thread counts. OpenMP's is the calling thread's own: backend/cpu_blas, whose
#      library takes its threads from there, sets it and sets it back (host/blas_threads.hpp).
#   5. NaN and Inf are told by their bits (core/float_bits.hpp): std::isfinite and comparisons of a number with
#      itself say nothing under -ffast-math.
#   6. No optimised backend calls its oracle, backend/reference.hpp.
#   7. Every name lies in the inline namespace of core/abi.hpp.
#   8. Of the operating system io/ alone includes headers, and backend/host/available_threads.hpp, on Linux.
#   9. std::min and std::max stand in parentheses: windows.h has macros of these names.
set -euo pipefail

dir=${1:?usage: check_layering.sh DIR}
status=0

# report RULE PATTERN FILE...: prints the lines of code that match; comments do not count.
report() {
  local rule=$1 pattern=$2 file hits
  shift 2
  for file in "$@"; do
    grep -qsE -- "$pattern" "$file" || continue
    hits=$(sed -E 's://.*$::' "$file" | grep -nE -- "$pattern" || true)
    if [[ -n $hits ]]; then
      printf '%s: %s\n%s\n' "${file#"$dir"/}" "$rule" "$hits"
      status=1
    fi
  done
}

shopt -s nullglob globstar
algorithms=("$dir"/*.hpp "$dir"/core/**/*.hpp "$dir"/io/**/*.hpp)
report "an algorithm names a backend's library" 'Eigen::|cblas_|LAPACKE_|dnnl|thrust|cuda' "${algorithms[@]}"

for header in "$dir"/**/*.hpp "$dir"/**/*.cuh; do
  name=${header#"$dir"/}
  report "NaN and Inf are told by core/float_bits.hpp" '\b(isfinite|isnan|isinf|isnormal|fpclassify)\b' "$header"
  report "a number compared with itself: core/float_bits.hpp has is_nan" '(^|[^][A-Za-z0-9_.>)])([A-Za-z_][A-Za-z0-9_.]*) (!=|==) \2([^][A-Za-z0-9_.(]|$)' "$header"
  report "infinity() as a bound: max() does under -ffast-math too" 'numeric_limits<[^>]*>::infinity\(' "$header"
  report "outside of the inline namespace: write namespace sparsegrad::SPARSEGRAD_ABI" \
    '^[[:space:]]*namespace sparsegrad(\{|[[:space:]]|::[^S])' "$header"
  report "write (std::min)(...): windows.h has macros of these names" '\b(min|max)\(' "$header"
  [[ $name == io/* || $name == backend/host/available_threads.hpp ]] ||
    report "only io includes headers of the operating system" \
      '#[[:space:]]*include[[:space:]]*<((unistd|pthread|sched|fcntl|dlfcn|poll|signal|dirent|windows)\.h|sys/)' "$header"
  [[ $name != backend/* || $name == backend/reference.hpp ]] ||
    report "only backend/reference.hpp names Reference" '\bReference\b|"(\.\./)?reference\.hpp"' "$header"
done

for header in "$dir"/**/*.hpp; do
  name=${header#"$dir"/}
  [[ $name == backend/cpu.hpp || $name == backend/cpu/* ]] ||
    report "only backend/cpu includes Eigen" '#[[:space:]]*include[[:space:]]*<(unsupported/)?Eigen' "$header"
  [[ $name == backend/cpu_blas.hpp || $name == backend/cpu_blas/* ]] ||
    report "only backend/cpu_blas includes CBLAS and LAPACKE" '#[[:space:]]*include[[:space:]]*[<"](.*/)?(cblas|lapacke?|openblas_config)\.h' "$header"
  [[ $name == backend/cpu_onednn.hpp || $name == backend/cpu_onednn/* ]] ||
    report "only backend/cpu_onednn includes oneDNN" '#[[:space:]]*include[[:space:]]*[<"](.*/)?dnnl[a-z_]*\.h' "$header"
  [[ $name == extras/mpi_* ]] || report "only extras/mpi_* includes MPI" '#[[:space:]]*include[[:space:]]*<mpi\.h' "$header"
  [[ $name == io/* ]] || report "only io includes json" '#[[:space:]]*include[[:space:]]*<nlohmann' "$header"
  report "a .hpp includes CUDA" '#[[:space:]]*include[[:space:]]*[<"](.*\.cuh|cuda|cub/|thrust/)' "$header"
  report "a macro without the prefix SPARSEGRAD_" '^[[:space:]]*#[[:space:]]*define[[:space:]]+([^S]|S[^P]|SP[^A]|SPA[^R])' "$header"
  report "a process-wide thread count" 'openblas_set_num_threads|setNbThreads|mkl_set_num_threads' "$header"
  [[ $name == backend/host/blas_threads.hpp ]] ||
    report "only host/blas_threads.hpp sets OpenMP's threads" 'omp_set_num_threads' "$header"
done
exit "$status"
