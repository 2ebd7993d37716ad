#!/usr/bin/env bash
# GPU kernels without a GPU. Their sources run on the CPU (cuda/hostsim.h): the results that have to
# be exact are, ThreadSanitizer and AddressSanitizer find nothing, and ThreadSanitizer finds every
# barrier that is left out. Then the wheel's kernels, if it has any: no
# spills, registers within their budgets, tensor cores where they are meant to be.
set -euo pipefail

folder=build/ci/cuda
mkdir -p "$folder"
population=(tests/cuda_host/population.cpp cuda/population_plan.cpp)
kernels=(tests/cuda_host/kernels.cpp cpp/kernels/reference.cpp cpp/ops/loss.cpp cpp/cpus.cpp
  cpp/parallel.cpp
  -x c++ cuda/elementwise.cu cuda/batch.cu cuda/update.cu)

compile() { # name, program, flags...
  local name=$1 program=$2
  shift 2
  local -n sources=$program
  ${CXX_LAUNCHER:-} g++ -std=c++20 -O1 -g -ffp-contract=off -Wall -Wextra -Werror \
    -Wno-unknown-pragmas -DDLCORE_EMULATE -Icuda -Icpp "$@" cuda/runtime.cpp \
    cuda/emulated/runtime.cpp cpp/tensor.cpp "${sources[@]}" -pthread -o "$folder/$program-$name"
}
for program in population kernels; do
  compile plain $program &
  jobs=($!)
  compile threads $program -fsanitize=thread &
  jobs+=($!)
  for job in "${jobs[@]}"; do wait "$job"; done
  compile memory $program -fsanitize=address,undefined -fno-sanitize-recover=all
done

# ThreadSanitizer of older compilers cannot place its memory where addresses are random.
fixed=(setarch "$(uname -m)" --addr-no-randomize)
"${fixed[@]}" true 2>/dev/null || fixed=()
for program in population kernels; do
  "$folder/$program-plain"
  DLCORE_HOSTSIM_ORDER=reverse "$folder/$program-plain"
  echo "with AddressSanitizer and UndefinedBehaviorSanitizer:"
  "$folder/$program-memory" race
  echo "with ThreadSanitizer:"
  TSAN_OPTIONS=halt_on_error=1 "${fixed[@]}" "$folder/$program-threads" race
done
"$folder/population-memory" clusters
TSAN_OPTIONS=halt_on_error=1 "${fixed[@]}" "$folder/population-threads" clusters
barriers=0
leave_out() { # program, its argument, source, how a barrier's line looks
  while IFS=: read -r line _; do
    if DLCORE_HOSTSIM_WITHOUT=$(basename "$3"):$line TSAN_OPTIONS=halt_on_error=1 \
      "${fixed[@]}" "$folder/$1-threads" "$2" >"$folder/without" 2>&1; then
      echo "nothing is found where the barrier of $3:$line is missing"
      exit 1
    fi
    # Found by ThreadSanitizer, or by the results.
    if ! grep -qE 'data race|FAILED' "$folder/without"; then
      cat "$folder/without"
      exit 1
    fi
    barriers=$((barriers + 1))
  done < <(grep -nE "$4" "$3")
}
for source in cuda/population.cu cuda/population_{product,step}.h; do
  leave_out population race "$source" '^ *(__syncthreads|Blocks::barrier)\(\);'
  leave_out population clusters "$source" 'Blocks::barrier\(\);'
done
leave_out kernels race cuda/batch.cu '__syncthreads\(\);'
leave_out kernels race cuda/update.cu '__syncthreads\(\);'
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
