#!/usr/bin/env bash
# What the GPU engines do on a GPU: build, checks, times beside PyTorch and JAX, one JSON.
#
#   bash benchmarks/gpu_evidence.sh                # writes benchmarks/results/gpu-NAME-DATE.json
#   bash benchmarks/gpu_evidence.sh --emulate      # every stage in miniature without a GPU; keeps nothing
#   bash benchmarks/gpu_evidence.sh --out FILE --stages build,correctness
#
# Needs no network: nvcc, and in the Python of $PYTHON (python3) scikit-build-core, pybind11, cmake, ninja, numpy, pytest
# and hypothesis; torch and jax where they are to be compared. Takes less than ten minutes; each stage has a limit of its
# own, and what is known is written after each.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
emulate=0
out=""
stages=environment,build,ceilings,correctness,sanitizer,timings
while (($# > 0)); do
  case $1 in
    --emulate) emulate=1 ;;
    --out) out=$2 && shift ;;
    --stages) stages=$2 && shift ;;
    *) echo "gpu_evidence.sh: unknown argument $1" && exit 2 ;;
  esac
  shift
done

folder=build/gpu-evidence
mkdir -p "$folder"
log=$folder/build.log
if ((emulate)); then
  out=$folder/emulated.json
fi
options=(--out "$out" --stages "$stages")
((emulate)) && options+=(--emulate)

if [[ ,$stages, == *,build,* && -z ${DLCORE_EVIDENCE_SITE:-} ]]; then
  begin=$SECONDS
  kind=ON
  ((emulate)) && kind=EMULATE
  # One architecture, that of the machine: a third of the time.
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .) || true
  settings=(-C "cmake.define.DLCORE_CUDA=$kind" -C "build-dir=$folder/build")
  [[ -n $architecture ]] && settings+=(-C "cmake.define.DLCORE_CUDA_ARCHITECTURES=$architecture-real")
  rm -rf "$folder/site"
  if ! timeout 300 "$python" -m pip install --quiet --no-index --no-build-isolation --no-deps \
    --target "$folder/site" "${settings[@]}" . >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "gpu_evidence.sh: the build failed; all of its output is in $log"
    exit 1
  fi
  options+=(--build-seconds $((SECONDS - begin)))
fi
# DLCORE_EVIDENCE_SITE names a folder that holds an installed dlcore, instead of a build.
export PYTHONPATH=${DLCORE_EVIDENCE_SITE:-$PWD/$folder/site}
exec "$python" -m benchmarks.gpu.evidence "${options[@]}"
