#!/usr/bin/env bash
# fuzz.sh [--runs N] [--jobs N] [--work DIR] [--slow SECONDS] [--seed N] [--no-build] [SECONDS] [TARGET...]
# Builds the fuzz targets with clang and runs each from its committed corpus for SECONDS (10), or with --runs until it has
# had N inputs in all, over all calls with the same DIR: an interrupted run goes on where it was. Prints a Markdown table
# with a line for each target. A finding stops its target, its input is kept in DIR/findings, and the exit status is 1.
#   --runs N    inputs for each target, in place of a time
#   --jobs N    targets at a time (the number of cores)
#   --work DIR  where corpora, figures and findings are kept (build/fuzz-runs)
#   --slow S    processor time from which an input is a finding (1; more where the targets are not optimised)
#   --seed N    the same inputs in the same order, as far as libFuzzer can (0: others each time)
#   --no-build  take the targets as they are
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
# shellcheck source=common.sh
source "$(dirname "$script")/common.sh"

library_dir=tests/fuzz
program_dir=examples/finetune/tests/fuzz
slice=500000  # inputs of a process, whose memory would grow otherwise: what an interrupt may cost

targets_of() { (cd "$project_root/$1" && ls ./*.cpp) | sed 's|^\./||; s|\.cpp$||'; }

# Folder of the target's source and its program.
place_of() {
  if [[ -e $project_root/$library_dir/$1.cpp ]]; then
    echo "$project_root/$library_dir $project_root/build/fuzz/tests/fuzz/fuzz_$1"
  else
    echo "$project_root/$program_dir $project_root/build/finetune-fuzz/tests/fuzz/fuzz_$1"
  fi
}

last_number() { sed -n "s/$1/\\1/p" "$2" | tail -n 1; }  # EXPRESSION FILE

# call TARGET LOG NEW_CORPUS OPTION...: one process of libFuzzer, its figures added to the target's. Status 1: a finding.
call() {
  local target=$1 log=$2 new=$3 source program status=0 start
  shift 3
  read -r source program < <(place_of "$target")
  mkdir -p "$new"
  local options=(-print_final_stats=1 -timeout=60 "-report_slow_units=$slow_after" "-seed=$seed" -rss_limit_mb=2048
    -malloc_limit_mb=256 -close_fd_mask=3 "-artifact_prefix=$work/findings/$target-")
  local dictionary=$target
  case $target in tokenizer_json | causal_tokenizer | vocab_json | vocab_txt | merges_txt) dictionary=tokenizer ;; esac
  [[ ! -e $source/$dictionary.dict ]] || options+=("-dict=$source/$dictionary.dict")
  start=$(date +%s%N)
  "$program" "${options[@]}" "$@" "$new" "$work/corpus/$target" "$source/corpus/$target" > "$log" 2>&1 || status=$?
  local inputs edges rss
  edges=$(last_number '^#.* cov: \([0-9]*\).*' "$log")
  rss=$(last_number '^stat::peak_rss_mb: *\([0-9]*\).*' "$log")
  inputs=$(last_number '^stat::number_of_executed_units: *\([0-9]*\).*' "$log")
  [[ -n $inputs ]] || inputs=$(last_number '^#\([0-9]*\).*' "$log")
  local had_inputs had_edges had_ms had_rss
  read -r had_inputs had_edges had_ms had_rss _ < <(cat "$work/figures/$target" 2> /dev/null || echo "0 0 0 0 -")
  printf '%s %s %s %s %s\n' "$((had_inputs + ${inputs:-0}))" "$((had_edges > ${edges:-0} ? had_edges : ${edges:-0}))" \
    "$((had_ms + ($(date +%s%N) - start) / 1000000))" "$((had_rss > ${rss:-0} ? had_rss : ${rss:-0}))" - \
    > "$work/figures/$target.new"
  mv "$work/figures/$target.new" "$work/figures/$target"
  local artifact
  artifact=$(last_number '^.*Test unit written to \(.*\)$' "$log")
  # Slow by the clock: because the machine was busy, or by processor time as well?
  local slow
  for slow in "$work/findings/$target"-{slow-unit,timeout}-*; do
    [[ -e $slow ]] || continue
    if (ulimit -t "$slow_after" && "$program" "$slow") > /dev/null 2>&1; then
      rm "$slow"
      if [[ $slow == "$artifact" ]]; then status=0; fi
    else
      status=1
      artifact=$slow
    fi
  done
  ((status == 0)) && return 0
  {
    echo "finding of $target: ${artifact:-exit status $status, no input was kept}"
    [[ -z $artifact ]] || "$program" -timeout=60 "$artifact" 2>&1 | grep -vE '^(INFO|Running)' | head -n 30
    [[ -n $artifact ]] || tail -n 5 "$log"
  } >&2
  return 1
}

# The inputs are short, but for some at the end that are long: they show what grows faster than the input.
run_target() {
  local target=$1 log=$work/logs/$1.log left
  local short=(-max_len=4096) long=(-max_len=200000 -len_control=0)
  if ((runs == 0)); then
    call "$target" "$log" "$work/corpus/$target" "${short[@]}" -max_total_time="$seconds" &&
      call "$target" "$log" "$work/long/$target" "${long[@]}" -max_total_time="$(((seconds + 9) / 10))"
    return
  fi
  while true; do
    left=$((runs - $(cut -d ' ' -f 1 "$work/figures/$target" 2> /dev/null || echo 0)))
    ((left > 0)) || return 0
    call "$target" "$log" "$work/corpus/$target" "${short[@]}" -runs="$((left < slice ? left : slice))" || return 1
    # Half a per cent of the inputs, a tenth of the time or so.
    call "$target" "$log" "$work/long/$target" "${long[@]}" -runs="$(((left < slice ? left : slice) / 200 + 1))" || return 1
  done
}

if [[ ${1:-} == --one-target ]]; then  # a call of this script by itself
  export TMPDIR=$work/tmp/$2
  rm -rf "$TMPDIR"
  mkdir -p "$TMPDIR" "$work/corpus/$2" "$work/long/$2"
  if ! run_target "$2"; then echo finding > "$work/failed/$2"; fi
  rm -rf "$TMPDIR"
  exit 0
fi

runs=0
seconds=10
slow_after=1
seed=0
work=$project_root/build/fuzz-runs
jobs=$(nproc)
with_build=1
targets=()
while (($# > 0)); do
  case $1 in
    --runs | --jobs | --work | --slow | --seed)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --runs) runs=$2 ;;
        --jobs) jobs=$2 ;;
        --slow) slow_after=$2 ;;
        --seed) seed=$2 ;;
        --work) work=$(realpath -m "$2") ;;
      esac
      shift
      ;;
    --no-build) with_build=0 ;;
    -h | --help)
      sed -n '2,12s/^# \{0,1\}//p' "$script"
      exit 0
      ;;
    [0-9]*) seconds=$1 ;;
    *)
      [[ -e $project_root/$library_dir/$1.cpp || -e $project_root/$program_dir/$1.cpp ]] ||
        die "there is no fuzz target '$1', expected some of: $(targets_of $library_dir | tr '\n' ' ')$(targets_of $program_dir | tr '\n' ' ')"
      targets+=("$1")
      ;;
  esac
  shift
done
((${#targets[@]} > 0)) || mapfile -t targets < <(targets_of $library_dir && targets_of $program_dir)

if ((with_build)); then
  command -v clang++ > /dev/null || die "clang++ is not installed; scripts/setup.sh installs it"
  of_library=()
  of_program=()
  for target in "${targets[@]}"; do
    if [[ -e $project_root/$library_dir/$target.cpp ]]; then of_library+=("fuzz_$target"); else of_program+=("fuzz_$target"); fi
  done
  configure fuzz > /dev/null
  if ((${#of_library[@]})); then build fuzz "${of_library[@]}"; fi
  if ((${#of_program[@]})); then
    configure_finetune fuzz > /dev/null
    build_finetune fuzz "${of_program[@]}"
  fi
fi

rm -rf "$work/failed"
mkdir -p "$work"/{corpus,long,figures,findings,logs,failed,tmp}
export work runs seconds slow_after seed
# Faster, and the peak of memory is the readers' rather than that of freed blocks which are kept to find their uses.
export ASAN_OPTIONS=malloc_context_size=2:quarantine_size_mb=64
say "Fuzzing ${#targets[@]} targets, $jobs at a time: $( ((runs > 0)) && echo "$runs inputs each" || echo "$seconds s each")"
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I '{}' bash "$script" --one-target '{}'

printf '\n| target | inputs | inputs a second | edges | corpus | seconds | peak RSS, MB | findings |\n'
printf '|---|---|---|---|---|---|---|---|\n'
all_inputs=0
all_ms=0
for target in "${targets[@]}"; do
  read -r inputs edges ms rss _ < <(cat "$work/figures/$target" 2> /dev/null || echo "0 0 0 0 -")
  entries=$(find "$work/corpus/$target" -type f | wc -l)
  printf '| %s | %s | %s | %s | %s | %s | %s | %s |\n' "$target" "$inputs" "$((ms > 0 ? inputs * 1000 / ms : 0))" "$edges" \
    "$entries" "$((ms / 1000))" "$rss" "$([[ -e $work/failed/$target ]] && echo yes || echo none)"
  all_inputs=$((all_inputs + inputs))
  all_ms=$((all_ms + ms))
done
printf '| all | %s | | | | %s | | |\n' "$all_inputs" "$((all_ms / 1000))"
failed=$(find "$work/failed" -type f -printf '%f ')
if [[ -n $failed ]]; then
  printf '\nfindings of: %s; their inputs are in %s\n' "$failed" "$work/findings" >&2
  exit 1
fi
