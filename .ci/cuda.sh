#!/usr/bin/env bash
# GPU kernels without a GPU. Their sources run on the CPU (cuda/hostsim.h): the results that have to
# be exact are, ThreadSanitizer and AddressSanitizer find nothing, and ThreadSanitizer finds every
# barrier that is left out. Then the wheel's kernels, if it has any: no spills, registers within their
# budgets, tensor cores where they are meant to be.
set -euo pipefail

folder=build/ci/cuda
mkdir -p "$folder"
runtime=(cuda/runtime.cpp cuda/emulated/runtime.cpp cpp/tensor.cpp cpp/random.cpp)
population=(tests/cuda_host/population.cpp cuda/population_plan.cpp)
# The graph engine's kernels, and the plain loops they are compared with.
kernels=(tests/cuda_host/kernels.cpp cpp/kernels/reference.cpp cpp/ops/loss.cpp cpp/parallel.cpp
  -x c++ cuda/elementwise.cu cuda/batch.cu cuda/update.cu)

compile() { # name, what, flags...
  local name=$1
  local -n what=$2
  shift 2
  g++ -std=c++20 -O1 -g -ffp-contract=off -Wall -Wextra -Werror -Wno-unknown-pragmas \
    -DDLCORE_EMULATE -Icuda -Icpp "$@" "${runtime[@]}" "${what[@]}" -pthread -o "$folder/$name"
}
memory=(-fsanitize=address,undefined -fno-sanitize-recover=all)
{
  compile population population
  compile population_memory population "${memory[@]}"
  compile kernels_memory kernels "${memory[@]}"
} &
first=$!
compile population_threads population -fsanitize=thread
compile kernels_threads kernels -fsanitize=thread
wait "$first"

"$folder/population"
DLCORE_HOSTSIM_ORDER=reverse "$folder/population"
echo "with AddressSanitizer and UndefinedBehaviorSanitizer:"
"$folder/population_memory" race
"$folder/kernels_memory"
echo "with ThreadSanitizer:"
# That of older compilers cannot place its memory where addresses are random.
fixed=(setarch "$(uname -m)" --addr-no-randomize)
"${fixed[@]}" true 2>/dev/null || fixed=(env)
export TSAN_OPTIONS=halt_on_error=1
"${fixed[@]}" "$folder/population_threads" race
"${fixed[@]}" "$folder/kernels_threads"

needs_barriers() { # source, command...: each of them
  local source=$1 line barriers=0
  shift
  while IFS=: read -r line _; do
    if DLCORE_HOSTSIM_WITHOUT=$source:$line "${fixed[@]}" "$@" >"$folder/without" 2>&1; then
      echo "nothing is found where the barrier of $source:$line is missing"
      exit 1
    fi
    if ! grep -q 'data race' "$folder/without"; then
      cat "$folder/without"
      exit 1
    fi
    barriers=$((barriers + 1))
  done < <(grep -n '__syncthreads();' "$source")
  ((barriers > 0))
  echo "$source: $barriers barriers left out one by one, each found"
}
needs_barriers cuda/population.cu "$folder/population_threads" race
needs_barriers cuda/batch.cu "$folder/kernels_threads"
needs_barriers cuda/update.cu "$folder/kernels_threads"

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
