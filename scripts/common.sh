# shellcheck shell=bash disable=SC2034
# What the scripts share: sourced, never run. Everything they make lies in the project's folder.

project_root=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cache_dir=$project_root/.cache
venv_dir=$project_root/.venv

# Both tools keep their caches in the home folder otherwise.
export CCACHE_DIR=${CCACHE_DIR:-$cache_dir/ccache}
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$cache_dir/pip}
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Matplotlib's list of fonts.
export MPLCONFIGDIR=${MPLCONFIGDIR:-$cache_dir/matplotlib}

# The seconds since the start say what a slow run is slow at.
say() { printf '\n== [%s s] %s\n' "$SECONDS" "$*"; }

# nccl_root: the folder of .venv with NCCL's header and library, where setup.sh has put them.
nccl_root() {
  local header
  for header in "$venv_dir"/lib/python3*/site-packages/nvidia/nccl/include/nccl.h; do
    if [[ -e $header ]]; then dirname "$(dirname "$header")"; fi
  done
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# build_jobs: a compiler of Eigen's templates takes up to 1.5 GB, so memory limits the number as well as cores.
build_jobs() {
  local cores memory_kb by_memory
  cores=$(nproc)
  memory_kb=$(awk '/MemAvailable/ {print $2}' /proc/meminfo)
  by_memory=$((memory_kb / 1500000))
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# configure PRESET [cmake option...]: an option once given stays with the build tree.
configure() {
  local preset=$1
  say "Configuring build/$preset"
  (cd "$project_root" && cmake --preset "$@")
}

# build PRESET [TARGET...]: the targets, or everything, in build/PRESET.
build() {
  local preset=$1
  shift
  (($# > 0)) || set -- all
  say "Building build/$preset: $*"
  (cd "$project_root" && cmake --build --preset "$preset" --parallel "$(build_jobs)" --target "$@")
}

# install_library PRESET: the configured library as its users have it, in build/prefix (build/prefix-cuda).
install_library() {
  local prefix=$project_root/build/prefix
  if [[ $1 == cuda ]]; then prefix+=-cuda; fi
  rm -rf "$prefix"  # headers that are gone stay otherwise
  cmake --install "$project_root/build/$1" --prefix "$prefix" > /dev/null
}

# configure_finetune PRESET [cmake option...]: examples/finetune, against the installed library of the same preset,
# which is configured before. Its build trees are build/finetune, for release, and build/finetune-PRESET.
configure_finetune() {
  local preset=$1
  install_library "$preset"
  say "Configuring examples/finetune, preset $preset"
  (cd "$project_root/examples/finetune" && cmake --preset "$@")
}

# build_finetune PRESET [TARGET...]
build_finetune() {
  local preset=$1
  shift
  (($# > 0)) || set -- all
  say "Building examples/finetune, preset $preset: $*"
  (cd "$project_root/examples/finetune" && cmake --build --preset "$preset" --parallel "$(build_jobs)" --target "$@")
}
