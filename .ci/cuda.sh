#!/usr/bin/env bash
# GPU kernels without a GPU. Their sources run on the CPU (cuda/hostsim.h): the results that have to
# be exact are, ThreadSanitizer and AddressSanitizer find nothing, and ThreadSanitizer finds every
# barrier of the population kernel that is left out. Then the wheel's kernels, if it has any: no
# spills, registers within their budgets, tensor cores where they are meant to be.
set -euo pipefail

folder=build/ci/cuda
mkdir -p "$folder"
sources=(tests/cuda_host/population.cpp cuda/population_plan.cpp cuda/runtime.cpp
  cuda/emulated/runtime.cpp cpp/tensor.cpp)

compile() { # name, flags...
  local name=$1
  shift
  ${CXX_LAUNCHER:-} g++ -std=c++20 -O1 -g -ffp-contract=off -Wall -Wextra -Werror \
    -Wno-unknown-pragmas -DDLCORE_EMULATE -Icuda -Icpp "$@" "${sources[@]}" -pthread \
    -o "$folder/$name"
}
compile plain &
jobs=($!)
compile threads -fsanitize=thread &
jobs+=($!)
for job in "${jobs[@]}"; do wait "$job"; done
compile memory -fsanitize=address,undefined -fno-sanitize-recover=all

"$folder/plain"
DLCORE_HOSTSIM_ORDER=reverse "$folder/plain"
echo "with AddressSanitizer and UndefinedBehaviorSanitizer:"
"$folder/memory" race
# ThreadSanitizer of older compilers cannot place its memory where addresses are random.
threads=(setarch "$(uname -m)" --addr-no-randomize "$folder/threads")
setarch "$(uname -m)" --addr-no-randomize true 2>/dev/null || threads=("$folder/threads")
echo "with ThreadSanitizer:"
TSAN_OPTIONS=halt_on_error=1 "${threads[@]}" race
barriers=0
while IFS=: read -r line _; do
  if DLCORE_HOSTSIM_WITHOUT=population.cu:$line TSAN_OPTIONS=halt_on_error=1 \
    "${threads[@]}" race >"$folder/without" 2>&1; then
    echo "nothing is found where the barrier of cuda/population.cu:$line is missing"
    exit 1
  fi
  if ! grep -q 'data race' "$folder/without"; then
    cat "$folder/without"
    exit 1
  fi
  barriers=$((barriers + 1))
done < <(grep -n '__syncthreads();' cuda/population.cu)
((barriers > 0))
echo "$barriers barriers left out one by one, each found"

wheel=$(echo build/ci/wheel/dlcore-*.whl)
python - "$wheel" "$folder" <<'PYTHON'
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if name.startswith("dlcore/_cuda"):
            with open(f"{sys.argv[2]}/_cuda.so", "wb") as file:
                file.write(wheel.read(name))
PYTHON
if [[ ! -e $folder/_cuda.so ]]; then
  echo "SKIPPED: the wheel has no GPU kernels; there is no nvcc of CUDA 13"
  exit 0
fi
pip install --quiet --target "$folder/tools" --upgrade --no-deps \
  nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm || {
  echo "SKIPPED: the disassembler cannot be had"
  exit 0
}
PYTHONPATH= python .ci/kernels.py "$folder/_cuda.so" "$folder/tools"
