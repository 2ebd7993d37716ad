#!/usr/bin/env bash
# System packages that later stages use and this machine lacks, by apt-get where that can be.
set -euo pipefail

wanted=()
want() { # packages, then a command that succeeds where they are not needed
  local packages=$1
  shift
  "$@" >/dev/null 2>&1 || wanted+=($packages)
}
has_clang() { compgen -c clang++ | grep -qE '^clang\+\+(-[0-9]+)?$'; }

want "g++" command -v g++
want "cmake" command -v cmake
want "make" command -v make
want "python3-venv python3-dev" python3 -c 'import ensurepip, venv, sysconfig, os
assert os.path.exists(sysconfig.get_path("include") + "/Python.h")'
want "clang" has_clang
want "g++-aarch64-linux-gnu" command -v aarch64-linux-gnu-g++
want "qemu-user-static" command -v qemu-aarch64-static

if ((${#wanted[@]} == 0)); then
  echo "nothing is missing"
elif ! command -v apt-get >/dev/null || ((EUID != 0)); then
  echo "missing, and not to be installed here (that takes apt-get and root): ${wanted[*]}"
else
  echo "installing ${wanted[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || echo "apt-get update failed; going on with the lists there are"
  for package in "${wanted[@]}"; do
    # One by one: stages whose tool cannot be had say so themselves.
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
      echo "$package cannot be installed"
  done
fi
g++ --version | head -n 1
cmake --version | head -n 1
python3 --version
