#!/usr/bin/env bash
# The core without Python, warnings as errors: native.sh gcc | clang | aarch64. The last one compiles
# the NEON kernels, and compares them with the reference under emulation (their times mean nothing).
# A compiler that this machine does not have is said and skipped; gcc has to be there.
set -euo pipefail

which=$1
skip() {
  echo "SKIPPED: $1"
  exit 0
}
case $which in
  gcc) settings=(-DCMAKE_CXX_COMPILER=g++) ;;
  clang)
    compiler=$(compgen -c clang++ | grep -E '^clang\+\+(-[0-9]+)?$' | sort -V | tail -n 1) ||
      skip "there is no clang++"
    settings=("-DCMAKE_CXX_COMPILER=$compiler")
    ;;
  aarch64)
    command -v aarch64-linux-gnu-g++ >/dev/null || skip "there is no aarch64-linux-gnu-g++"
    settings=(-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_SYSTEM_NAME=Linux
      -DCMAKE_SYSTEM_PROCESSOR=aarch64)
    ;;
  *)
    echo "native.sh: needs gcc, clang or aarch64, not $which"
    exit 1
    ;;
esac

folder=build/ci/$which
cmake -S . -B "$folder" -DDLCORE_WERROR=ON "${settings[@]}"
cmake --build "$folder" --parallel "$(nproc)"

[[ $which == aarch64 ]] || exit 0
bench=$folder/dlcore-bench
[[ -x $bench ]] || skip "this build has no dlcore-bench to run the NEON kernels with"
command -v qemu-aarch64-static >/dev/null || skip "there is no qemu-aarch64-static"
small='dense_.*/(784x32|512x10)/m(8|32)(/.*)?|activation_.*/1000(/f64)?|softmax_cross_entropy/(32|128)x10'
small+='|optimizer_step/.*/25600(/f64)?|(transpose|dropout|bias_gradient)/128x512|(add|norm)/100000'
small+='|gather/.*/m32|predict/784-32-10/m32|dense_.*/(128x10|777x33)/m3[23]/(.*/)?f64'
QEMU_LD_PREFIX=/usr/aarch64-linux-gnu qemu-aarch64-static "$bench" \
  --kernels neon --seconds 1e-9 --threads 1 --filter "^($small)\$"
