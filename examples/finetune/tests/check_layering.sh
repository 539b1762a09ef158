#!/usr/bin/env bash
# check_layering.sh DIR: the rules that hold between the files of the project in DIR (examples/finetune).
#   1. The library's public headers alone: nothing of sparsegrad/backend/<folder>/ or sparsegrad/detail/, and in the
#      program nothing by a path that leads out of DIR. Tests may include the library's test helpers.
#   2. No include arrow up: a folder includes itself and those that are named for it below.
#   3. The program starts no other program.
set -euo pipefail

cd "${1:?usage: check_layering.sh DIR}"
status=0
include='^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]'
program=(models tokenizers data checkpoints training programs replication)
sources=(--include=*.hpp --include=*.cpp --include=*.cuh --include=*.cu)

# report RULE: prints the lines that come in, if any, as faults.
report() {
  local hits
  hits=$(cat)
  [[ -n $hits ]] || return 0
  printf '%s:\n%s\n' "$1" "$hits"
  status=1
}
# lines PATTERN FOLDER...: lines of code with their files.
lines() { grep -rnE "${sources[@]}" -- "$@" || true; }

report "internals of sparsegrad" < <(lines "${include}(sparsegrad/)?(backend/[a-z_]+/|detail/)" .)
report "NaN and Inf are told by sparsegrad/core/float_bits.hpp" < <(lines "\\b(isfinite|isnan|isinf)[[:space:]]*\\(" "${program[@]}")
report "a path out of the project" < <(lines "${include}\.\./\.\./" "${program[@]}")
calls='\b(posix_spawnp?|exec[lv]p?e?|popen|fork|system)[[:space:]]*\('
report "starts another program" < <(lines "$calls" "${program[@]}" | grep -vE "//.*$calls" || true)

# allow FOLDER OTHER...: FOLDER includes nothing of the project but itself and the others.
allow() {
  local allowed
  allowed=$(IFS='|' && echo "$*")
  report "$1 includes what is not below it" < <(
    lines "${include}($(IFS='|' && echo "${program[*]}")|tests|support)/" "$1" |
      grep -vE "#[[:space:]]*include[[:space:]]*[<\"]($allowed)(/|\")" || true
  )
}
allow models/layers models/model_error.hpp
allow models/parameters models/model_error.hpp
allow models/mlp models/layers models/parameters models/model_error.hpp
allow models/encoder models
allow models/decoder models
allow tokenizers
allow data tokenizers models/layers
allow checkpoints models tokenizers
allow replication models training/options.hpp
allow training models tokenizers data checkpoints replication
allow programs models tokenizers data checkpoints replication training
exit "$status"
