#!/usr/bin/env bash
# The GPU engines without a GPU: their sources compiled for the CPU over an emulation of CUDA's runtime, put beside
# the installed package, and tested there as on a GPU.
set -euo pipefail

# Where the stage gcc compiled the core: with the same settings, so that it is used again.
folder=build/ci/gcc
pip install --quiet pybind11
version=$(python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
cmake -S . -B "$folder" -DCMAKE_CXX_COMPILER=g++ -DDLCORE_CUDA=EMULATE -DDLCORE_WERROR=ON -DSKBUILD=ON \
  -DSKBUILD_PROJECT_VERSION="$version" -DPYTHON_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >/dev/null
cmake --build "$folder" --parallel "$(nproc)" --target _cuda

site=build/ci/emulated
rm -rf "$site"
mkdir -p "$site"
cp -r "$(python -c 'import dlcore, os; print(os.path.dirname(dlcore.__file__))')" "$site/dlcore"
rm -f "$site"/dlcore/_cuda*.so
cp "$folder"/_cuda*.so "$site/dlcore"
export PYTHONPATH=$site
# What is freed is overwritten: a copy that the stream has not come to yet then shows.
export MALLOC_PERTURB_=85
python -c 'import dlcore; print(dlcore.info()["cuda_status"])'
pytest -q tests/test_gpu{,_fits,_arrays,_functional}.py tests/test_group.py tests/test_population.py \
  tests/test_cuda_package.py
# The other order of threads and blocks: results that depend on it depend on what nothing guarantees.
DLCORE_HOSTSIM_ORDER=reverse pytest -q tests/test_gpu{,_fits,_arrays,_functional}.py tests/test_group.py \
  -k "bits or one_step or integers or differ"
DLCORE_EVIDENCE_SITE=$site bash benchmarks/gpu_evidence.sh --emulate --stages environment,ceilings,timings
