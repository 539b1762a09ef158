#!/usr/bin/env bash
# setup.sh [--lint] [--docs] [--tools] [--python] [--peers] [--nccl]
# Installs what the project is built from: Debian packages, and a virtual environment in .venv for what comes from
# PyPI. Does nothing where everything is there.
#   --lint    also clang-format, clang-tidy, shellcheck, valgrind and libc++
#   --docs    also doxygen, for the target docs
#   --tools   also .venv with conan and cuobjdump, for tests that are skipped without them
#   --python  also .venv with numpy, matplotlib and optuna
#   --peers   the same with the programs that benchmarks/ compares with: torch, transformers, peft, tensorly; some 6 GB
#   --nccl    also NCCL's header and library in .venv, for builds with SPARSEGRAD_CUDA (-DNCCL_ROOT, see common.sh)
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

packages=(
  build-essential cmake ninja-build ccache clang git pkg-config
  libeigen3-dev libopenblas-openmp-dev liblapacke-dev libdnnl-dev
  libopenmpi-dev openmpi-bin
  doctest-dev libbenchmark-dev
  nlohmann-json3-dev libcli11-dev libfmt-dev libicu-dev libsentencepiece-dev
  python3 python3-dev python3-venv
)
python_packages=()
with_nccl=0
for argument in "$@"; do
  case $argument in
    --lint) packages+=(clang-format clang-tidy libc++-dev libc++abi-dev shellcheck valgrind) ;;
    --docs) packages+=(doxygen) ;;
    --tools) python_packages+=(conan nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm) ;;
    --python) python_packages+=(numpy matplotlib optuna) ;;
    --peers) python_packages+=(numpy matplotlib optuna torch transformers peft tensorly) ;;
    --nccl) with_nccl=1 ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) die "setup.sh does not know '$argument' (--lint, --docs, --tools, --python, --peers, --nccl)" ;;
  esac
done

install_packages() {
  if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    say "Not a Debian system: install what these packages hold by hand"
    printf '%s\n' "${packages[*]}"
    return
  fi
  local package missing=()
  for package in "${packages[@]}"; do
    # shellcheck disable=SC2016 # dpkg-query's own variable
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null) == installed ]] ||
      missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "All Debian packages are installed"
    return
  fi
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo > /dev/null || die "neither root nor sudo; as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

make_venv() {
  local names="${python_packages[*]}"
  if "$venv_dir/bin/python" -c "import importlib.metadata, sys; [importlib.metadata.version(name) for name in sys.argv[1:]]" \
    "${python_packages[@]}" 2> /dev/null; then
    say "Python environment .venv is ready"
    return
  fi
  say "Making the Python environment .venv ($names)"
  [[ -x $venv_dir/bin/python ]] || python3 -m venv "$venv_dir"
  "$venv_dir/bin/python" -m pip install --quiet "${python_packages[@]}"
}

install_nccl() {
  if [[ -n $(nccl_root) ]]; then
    say "NCCL is in .venv"
    return
  fi
  say "Installing NCCL into .venv (nvidia-nccl-cu12)"
  [[ -x $venv_dir/bin/python ]] || python3 -m venv "$venv_dir"
  "$venv_dir/bin/python" -m pip install --quiet --no-deps nvidia-nccl-cu12
}

install_packages
if ((with_nccl)); then install_nccl; fi
if ((${#python_packages[@]} > 0)); then make_venv; fi
