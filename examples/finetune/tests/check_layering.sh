#!/usr/bin/env bash
# check_layering.sh DIR: the rules that hold between the files of the project in DIR (examples/finetune).
#   1. The program includes the library's public headers alone: nothing of sparsegrad/backend/<folder>/ or sparsegrad/detail/,
#      nothing by a path that leads out of DIR. Tests may include the library's test helpers, and no internals either.
#   2. No include arrow up: a folder includes itself and those named for it below.
#   3. The program starts no other program.
set -euo pipefail

dir=${1:?usage: check_layering.sh DIR}
status=0

# report RULE PATTERN FILE...: prints the lines of code that match; comments do not count.
report() {
  local rule=$1 pattern=$2 file hits
  shift 2
  for file in "$@"; do
    hits=$(sed -E 's://.*$::' "$file" | grep -nE -- "$pattern" || true)
    if [[ -n $hits ]]; then
      printf '%s: %s\n%s\n' "${file#"$dir"/}" "$rule" "$hits"
      status=1
    fi
  done
}

# files FOLDER: its sources.
files() { find "$dir/$1" -type f \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) | sort; }

include='#[[:space:]]*include[[:space:]]*[<"]'
mapfile -t all < <(files .)
report "internals of sparsegrad" "${include}(sparsegrad/)?(backend/[a-z_]+/|detail/)" "${all[@]}"

# allow FOLDER OTHER...: FOLDER includes nothing of the project but itself and the others.
folders='models|tokenizers|data|checkpoints|training|programs|replication|tests|support'
allow() {
  local folder=$1 allowed
  [[ -d $dir/$folder ]] || return 0
  allowed=$(IFS='|' && echo "$*")
  local file hits
  while read -r file; do
    hits=$(sed -E 's://.*$::' "$file" | grep -nE "${include}($folders)/" | grep -vE "${include}($allowed)(/|\")" || true)
    if [[ -n $hits ]]; then
      printf '%s: an include that is not below %s\n%s\n' "${file#"$dir"/}" "$folder" "$hits"
      status=1
    fi
  done < <(files "$folder")
}
allow models/layers models/model_error.hpp
allow models/parameters models/model_error.hpp
allow models/mlp models/layers models/parameters models/model_error.hpp
allow models/encoder models
allow tokenizers
allow data tokenizers models/layers
allow checkpoints models
allow replication models training/options.hpp
allow training models tokenizers data checkpoints replication
allow programs models tokenizers data checkpoints replication training

for folder in models tokenizers data checkpoints training programs replication; do
  [[ -d $dir/$folder ]] || continue
  mapfile -t sources < <(files "$folder")
  ((${#sources[@]} > 0)) || continue
  report "a path out of the project" "${include}\.\./\.\./" "${sources[@]}"
  report "starts another program" '\b(posix_spawnp?|exec[lv]p?e?|popen|fork|system)[[:space:]]*\(' "${sources[@]}"
done
exit "$status"
